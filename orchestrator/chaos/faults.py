"""Which faults strike a run, and when: a pure function of a seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """What goes wrong."""

    WORKER = "worker killed"
    """A process that computes a step, or a rank of a training."""

    RAYLET = "raylet killed"
    """Ray's daemon of the machine, and with it every worker."""

    DRIVER = "driver killed"
    """The process behind ``gammaray run``."""

    PAUSED = "driver stopped beyond its lease"
    """It wakes up when another driver has taken over."""

    TRACKING = "MLflow stopped"
    UNAVAILABLE = "store answers 503"
    SLOW = "store is slow"
    TRUNCATED = "store returns truncated objects"
    FULL = "disk is full"
    CLOCK = "clock jumps"


STORE_FAULTS = (FaultKind.UNAVAILABLE, FaultKind.SLOW, FaultKind.TRUNCATED, FaultKind.FULL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault of a schedule."""

    kind: FaultKind
    delay_s: float
    """Undisturbed time before it."""
    seconds: float
    """How long it lasts, where it does."""
    draw: float
    """In [0, 1): which of several targets it hits, or how far a clock jumps."""


def draw_faults(
    count: int, seed: int, kinds: Sequence[FaultKind] = tuple(FaultKind)
) -> list[Fault]:
    """Draw a schedule in which each kind comes as often as the others, give or take one.

    Args:
        count: How many faults.
        seed: Equal seeds give equal schedules.
        kinds: What may happen.

    Raises:
        ValueError: If there are no kinds, or fewer than one fault.
    """
    if count < 1 or not kinds:
        raise ValueError(f"a schedule needs faults and kinds of them, got {count} of {kinds}")
    source = random.Random(seed)
    drawn: list[Fault] = []
    while len(drawn) < count:
        drawn += [
            Fault(
                kind=kind,
                delay_s=source.uniform(0.2, 5.0),
                seconds=source.uniform(1.0, 8.0),
                draw=source.random(),
            )
            for kind in source.sample(kinds, len(kinds))
        ]
    return drawn[:count]
