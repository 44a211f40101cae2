"""What a training watches for, and what it does when it happens."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

Action = Literal["warn", "skip", "rollback", "stop"]
"""In order of severity: tell it; leave the batch out; go back to the last good checkpoint with a
lower rate; end with the reason."""

BadBatch = Literal["skip", "rollback", "stop"]
Spike = Literal["off", "warn", "skip", "rollback", "stop"]
Collapse = Literal["off", "warn", "rollback", "stop"]
Degenerate = Literal["off", "warn", "rollback", "stop"]


_ACTIONS = {
    "non_finite": BadBatch,
    "spike": Spike,
    "collapse": Collapse,
    "degenerate": Degenerate,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Guards:
    """An action per guard, and when each guard fires.

    Raises:
        ValueError: If a value is out of range; the message names the field.
    """

    non_finite: BadBatch = "stop"
    """An input, the loss or the gradient is NaN or infinite. Going on would end in NaN weights, so
    that no warning is offered."""

    spike: Spike = "warn"
    """The gradient's norm is far above the median of the norms before."""

    collapse: Collapse = "warn"
    """A layer's routers say the same of all tokens: compute, or skip. The batch is not to blame,
    so that skipping it is not offered."""

    degenerate: Degenerate = "warn"
    """Answers to held-out questions are empty or repeat themselves; without
    `TrainingConfig.validation` none are asked."""

    spike_factor: float = 20.0
    """How many medians make a spike. Healthy trainings of the digits recipe reach 9.4."""

    spike_window: int = 50
    """Norms in the median, the newest ones of steps that were not skipped."""

    min_entropy: float = 0.1
    """A layer has collapsed when the entropy of its mean routing probability is below this share
    of the entropy at its capacity."""

    patience: int = 20
    """Steps in a row that a layer must be collapsed: a zero-initialised router needs some."""

    max_degenerate: float = 0.5
    """Share of degenerate answers above which the guard fires, in [0, 1)."""

    rollback_rate: float = 0.5
    """Factor on all learning rates from the checkpoint on that a rollback returns to."""

    limit: int = 5
    """Skipped batches in a row, or rollbacks in all, that are too many: the training stops."""

    def __post_init__(self) -> None:
        for name, known in _ACTIONS.items():
            names = get_args(known)
            _check(name, getattr(self, name), getattr(self, name) in names, " or ".join(names))
        _check("spike_factor", self.spike_factor, self.spike_factor > 1, "above 1")
        for name in ("spike_window", "patience", "limit"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        _check("min_entropy", self.min_entropy, 0 < self.min_entropy < 1, "in (0, 1)")
        _check("max_degenerate", self.max_degenerate, 0 <= self.max_degenerate < 1, "in [0, 1)")
        _check("rollback_rate", self.rollback_rate, 0 < self.rollback_rate <= 1, "in (0, 1]")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Build it from parsed JSON.

        Raises:
            ValueError: If a field is unknown or out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ValueError(f"guards has no {unknown[0]!r}; it has {', '.join(known)}")
        return cls(**values)

    @property
    def may_roll_back(self) -> bool:
        """Whether results depend on where checkpoints are."""
        return "rollback" in [getattr(self, name) for name in _ACTIONS]


def _check(field: str, value: object, is_valid: bool, expected: str) -> None:
    if not is_valid:
        raise ValueError(f"guards.{field} must be {expected}, got {value!r}")
