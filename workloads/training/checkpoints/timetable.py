"""When checkpoints are due: after so many steps, after some time, or as often as pays off."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from workloads.duration import parse_duration

AUTOMATIC = "auto"

_FIRST_COST_S = 1.0
"""What a checkpoint is taken to cost before one has been measured."""


@dataclass(frozen=True, slots=True)
class Every:
    """A time between checkpoints, as a recipe writes it."""

    steps: int | None = None
    seconds: float | None = None
    """Both None: as often as pays off."""

    @classmethod
    def parse(cls, value: int | str) -> Self:
        """Read ``50`` (optimizer steps), ``90 s``, ``10min``, ``2h`` or ``auto``.

        Raises:
            ValueError: If it is none of these, or not positive.
        """
        seconds = parse_duration(value) if isinstance(value, str) else None
        if seconds:
            return cls(seconds=seconds)
        if value == AUTOMATIC:
            return cls()
        if isinstance(value, int) and value >= 1:
            return cls(steps=value)
        raise ValueError(
            f"checkpoint_every must be a number of steps of at least 1, a duration such as '90s', "
            f"'10min' or '2h', or '{AUTOMATIC}', got {value!r}"
        )


class Timetable:
    """Tells one process when the next checkpoint is due.

    As often as pays off is every ``sqrt(2 * cost * failure_s)`` seconds, where ``cost`` is how
    long the last checkpoint held the training up (Young, 1974, doi:10.1145/361147.361115).

    Args:
        every: What was asked for.
        failure_s: Expected seconds between two failures of the training.
        clock: Seconds on a monotonic clock.
    """

    def __init__(
        self, every: Every, failure_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._every, self._failure_s, self._clock = every, failure_s, clock
        self._cost_s = _FIRST_COST_S
        self._started_s = self._last_s = clock()
        self._done: int | None = None

    @property
    def counts_steps(self) -> bool:
        """Whether it is the same on all ranks, whatever their clocks say."""
        return self._every.steps is not None

    def is_due(self, done: int) -> bool:
        """Whether to keep the state after ``done`` optimizer steps."""
        if self._every.steps is not None:
            return done % self._every.steps == 0
        return self._clock() - self._last_s >= self._interval_s

    def saved(self, cost_s: float) -> None:
        """Note that a checkpoint was taken just now and held the training up for ``cost_s``."""
        self._last_s, self._cost_s = self._clock(), cost_s

    def left_s(self, done: int) -> float | None:
        """Seconds to the next checkpoint; None where the speed of steps is not known yet.

        Args:
            done: Optimizer steps done, also when it was first asked.
        """
        now_s = self._clock()
        if self._every.steps is None:
            return max(0.0, self._interval_s - (now_s - self._last_s))
        if self._done is None or done <= self._done:
            self._done, self._started_s = done, now_s
            return None
        step_s = (now_s - self._started_s) / (done - self._done)
        return (self._every.steps - done % self._every.steps) * step_s

    @property
    def _interval_s(self) -> float:
        return self._every.seconds or math.sqrt(2.0 * self._cost_s * self._failure_s)
