"""What one training is: how long, how fast, in which precision, and which parts learn."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, get_args

from workloads.training.checkpoints.timetable import Every
from workloads.training.errors import TrainingError
from workloads.training.guards import Guards

Part = Literal["projector", "vision_tower", "language_model", "router"]
"""A part of an image-text model that learns or is frozen as a whole."""

PART_RATES: Mapping[Part, str] = {
    "router": "router_learning_rate",
    "projector": "projector_learning_rate",
    "vision_tower": "vision_learning_rate",
}
"""Parts that can have a learning rate of their own, and the field that says it."""

Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["fp32", "bf16"]
Best = Literal["keep", "use", "off"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """Adapters that learn in the place of the language model (LoRA, arXiv 2106.09685).

    Raises:
        ValueError: If a value is out of range; the message names the field.
    """

    rank: int = 16
    alpha: float = 32.0
    """What an adapter adds is scaled by ``alpha / rank``."""

    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check("lora.rank", self.rank, self.rank >= 1, "at least 1")
        _check("lora.alpha", self.alpha, self.alpha > 0, "above 0")
        _check("lora.dropout", self.dropout, 0 <= self.dropout < 1, "in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """What is measured on samples of the training data that are held out.

    Raises:
        ValueError: If a value is out of range; the message names the field.
    """

    every: int = 50
    """Optimizer steps between two measurements; there is one after the last step too."""

    batches: int = 2
    """Global batches of samples that are held out, for the loss."""

    answers: int = 8
    """How many of them are also answered, greedily, for the guard ``degenerate``; 0 for none."""

    max_new_tokens: int = 32
    """Longest answer."""

    best: Best = "keep"
    """What becomes of the state with the lowest loss: its checkpoint is kept, its weights are used
    in the end instead of the last ones, or nothing."""

    def __post_init__(self) -> None:
        for name in ("every", "batches", "max_new_tokens"):
            value = getattr(self, name)
            _check(f"validation.{name}", value, value >= 1, "at least 1")
        _check("validation.answers", self.answers, self.answers >= 0, "at least 0")
        known = get_args(Best)
        _check("validation.best", self.best, self.best in known, f"one of {', '.join(known)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """One training, for alignment and fine-tuning alike.

    Raises:
        ValueError: If a value is out of range; the message names the field.
    """

    steps: int
    """Optimizer steps."""

    learning_rate: float

    trainable: tuple[Part, ...]
    """Parts that learn; all others are frozen. A dense model has no ``router``."""

    global_batch: int = 32
    """Samples of one optimizer step, over all ranks and micro-batches."""

    micro_batch: int | None = None
    """Samples of one forward pass of one rank; None takes the rank's whole share at once."""

    router_learning_rate: float | None = None
    """Rate of the ``router`` part; None takes ``learning_rate``."""

    projector_learning_rate: float | None = None
    """Rate of the ``projector`` part; None takes ``learning_rate``."""

    vision_learning_rate: float | None = None
    """Rate of the ``vision_tower`` part; None takes ``learning_rate``."""

    schedule: Schedule = "cosine"
    """How the rates fall after the warm-up: to zero, or not at all."""

    warmup_ratio: float = 0.0
    """Share of the steps over which the rates rise linearly, in [0, 1)."""

    weight_decay: float = 0.0
    """AdamW's decoupled decay of matrices; biases and norms are never decayed."""

    betas: tuple[float, float] = (0.9, 0.999)

    clip_norm: float = 1.0
    """Largest L2 norm of the gradient of all trained weights together."""

    seed: int = 0

    precision: Precision = "fp32"

    gradient_checkpointing: bool = False

    lora: Lora | None = None
    """Adapters in the place of the language model's weights; merged into them in the end."""

    zero_stage: int = 2
    """What DeepSpeed shards over ranks: 0 nothing, 1 optimizer, 2 gradients, 3 weights too."""

    offload_optimizer: bool = False
    """Whether DeepSpeed keeps optimizer states in the machine's memory; takes ``zero_stage`` 1."""

    checkpoint_every: int | str = 50
    """Optimizer steps between checkpoints, a duration such as ``10min``, or ``auto``: as often as
    pays off, see `Timetable`."""

    hours_between_failures: float = 24.0
    """Expected time between two failures of one worker, for ``checkpoint_every: auto``."""

    group_by_length: bool = False
    """Whether a global batch has samples of one length, with images or without, see
    `workloads.data.TrainingBatches`; otherwise it is a random one."""

    guards: Guards = field(default_factory=Guards)

    validation: Validation | None = None
    """What is measured on held-out samples; None trains on all of them."""

    def __post_init__(self) -> None:
        Every.parse(self.checkpoint_every)
        for name in ("steps", "global_batch"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        micro = self.micro_batch
        _check("micro_batch", micro, micro is None or micro >= 1, "at least 1 or None")
        for name in ("learning_rate", "clip_norm", "hours_between_failures"):
            _check(name, getattr(self, name), getattr(self, name) > 0, "above 0")
        for name in PART_RATES.values():
            rate = getattr(self, name)
            _check(name, rate, rate is None or rate > 0, "above 0 or None")
        if self.offload_optimizer and not self.zero_stage:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3, got 0")
        _check("warmup_ratio", self.warmup_ratio, 0 <= self.warmup_ratio < 1, "in [0, 1)")
        _check("weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        _check("betas", self.betas, all(0 <= beta < 1 for beta in self.betas), "in [0, 1)")
        _check("seed", self.seed, self.seed >= 0, "at least 0")
        _check("zero_stage", self.zero_stage, self.zero_stage in range(4), "one of 0, 1, 2, 3")
        for name, known in (("schedule", Schedule), ("precision", Precision)):
            value, names = getattr(self, name), get_args(known)
            _check(name, value, value in names, f"one of {', '.join(names)}")
        _check_parts(self.trainable)
        if self.guards.may_roll_back and not isinstance(self.checkpoint_every, int):
            raise ValueError(
                f"checkpoint_every must be a number of steps where a guard may roll back, for the "
                f"result depends on it; got {self.checkpoint_every!r}"
            )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Build a config from parsed JSON, whose lists stand for tuples.

        Raises:
            ValueError: If a value is out of range.
            TypeError: If a field is unknown or missing.
        """
        tuples = {name: tuple(values[name]) for name in ("trainable", "betas") if name in values}
        guards = Guards.from_json(values.get("guards", {}))
        lora = Lora(**values["lora"]) if values.get("lora") is not None else None
        given = values.get("validation")
        validation = Validation(**given) if given is not None else None
        nested = {"guards": guards, "lora": lora, "validation": validation}
        return cls(**{**values, **tuples, **nested})

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; `from_json` reads them back."""
        return asdict(self)

    def rows_of_a_rank(self, world_size: int) -> int:
        """Samples that each of ``world_size`` ranks sees in one optimizer step.

        Raises:
            TrainingError: If the global batch does not divide into ranks and micro-batches.
        """
        rows, rest = divmod(self.global_batch, world_size)
        if rest or rows == 0:
            raise TrainingError(
                f"global_batch {self.global_batch} cannot be shared equally by {world_size} "
                "workers: change one so that the batch is a multiple of the workers"
            )
        if self.micro_batch is not None and rows % self.micro_batch:
            raise TrainingError(
                f"each of {world_size} workers sees {rows} of global_batch {self.global_batch} "
                f"samples per step, which micro_batch {self.micro_batch} does not divide"
            )
        return rows

    def usable_ranks(self, offered: int) -> int:
        """The largest number of ranks, of ``offered`` at most, that can share the batch."""
        return max(size for size in range(1, offered + 1) if self._can_be_shared(size))

    def _can_be_shared(self, world_size: int) -> bool:
        rows, rest = divmod(self.global_batch, world_size)
        return not rest and rows > 0 and (self.micro_batch is None or not rows % self.micro_batch)


def _check(field: str, value: object, is_valid: bool, expected: str) -> None:
    if not is_valid:
        raise ValueError(f"{field} must be {expected}, got {value!r}")


def _check_parts(trainable: tuple[str, ...]) -> None:
    known = get_args(Part)
    unknown = [part for part in trainable if part not in known]
    if unknown or not trainable:
        raise ValueError(
            f"trainable must name one or more of {', '.join(known)}, got {list(trainable)}"
        )
