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

    vision_steps: int = 4_000
    vision_batch: int = 48
    vision_learning_rate: float = 2e-3

    answer_steps: int = 1_500
    answer_batch: int = 8
    """Scenes per step; eight questions are asked about each."""
    answer_learning_rate: float = 1.5e-3

    warmup_steps: int = 100
    weight_decay: float = 0.02
    gradient_norm: float = 1.0
