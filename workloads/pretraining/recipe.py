"""What the embedded base model was pre-trained with."""

from dataclasses import dataclass, field

from workloads.models.architecture import Architecture


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainingRecipe:
    """Sizes, steps and rates of a pre-training; with its seed they decide the result."""

    seed: int = 0
    architecture: Architecture = field(default_factory=Architecture)
    vocabulary_size: int = 384
    """Upper bound; 256 bytes and the special tokens are part of it."""

    scenes: int = 12_000
    """Scenes drawn from the train digits; the eval digits are never shown."""

    vision_steps: int = 1_500
    vision_batch: int = 48
    vision_learning_rate: float = 2e-3

    answer_steps: int = 850
    list_steps: int = 450
    """So many of the first steps also have read-aloud lists and the loss at image tokens."""
    answer_batch: int = 16
    """Scenes per step; about each, several questions are asked."""
    answer_learning_rate: float = 2e-3

    warmup_steps: int = 50
    weight_decay: float = 0.02
    gradient_norm: float = 1.0
