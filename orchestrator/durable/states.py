"""The states of steps and runs, and every way from one to another."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar


class StepState(StrEnum):
    """Where a step stands in this run."""

    WAITING = "waiting"
    """An input is not there yet."""

    READY = "ready"
    """It must run; resources are not free yet."""

    RUNNING = "running"
    BACKOFF = "backoff"
    """An attempt failed; the next one waits for its time."""

    REUSED = "reused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunState(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """A step failed in a way that repeats itself; after a change the same run continues."""

    RESUMABLE = "resumable"
    """It was stopped from outside; the same command continues it."""


State = TypeVar("State", StepState, RunState)

STEP_MOVES: Mapping[StepState, frozenset[StepState]] = {
    StepState.WAITING: frozenset({StepState.REUSED, StepState.READY, StepState.FAILED}),
    StepState.READY: frozenset({StepState.RUNNING}),
    StepState.RUNNING: frozenset(
        {StepState.SUCCEEDED, StepState.BACKOFF, StepState.FAILED, StepState.CANCELLED}
    ),
    StepState.BACKOFF: frozenset({StepState.RUNNING}),
    StepState.REUSED: frozenset(),
    StepState.SUCCEEDED: frozenset(),
    StepState.FAILED: frozenset(),
    StepState.CANCELLED: frozenset(),
}
"""States of a step within one epoch; the next epoch starts all of them over from WAITING."""

RUN_MOVES: Mapping[RunState, frozenset[RunState]] = {
    RunState.RUNNING: frozenset(set(RunState) - {RunState.RUNNING}),
    RunState.SUCCEEDED: frozenset({RunState.RUNNING}),
    RunState.FAILED: frozenset({RunState.RUNNING}),
    RunState.RESUMABLE: frozenset({RunState.RUNNING}),
}
"""States of a run; from the last three the same command starts the next epoch."""

DONE = frozenset({StepState.REUSED, StepState.SUCCEEDED})
"""Steps whose result is committed."""


def move(table: Mapping[State, frozenset[State]], current: State, new: State) -> State:
    """Return ``new`` if the table allows to go there; raises ValueError if not."""
    if new not in table[current]:
        raise ValueError(f"cannot go from {current} to {new}")
    return new
