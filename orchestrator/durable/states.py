"""The states of steps and runs, and every way from one to another."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar


class StepState(StrEnum):
    """Where a step stands in this run."""

    WAITING = "waiting"
    """An input is not there yet."""

    EXPANDED = "expanded"
    """A fan-out: one step per item stands in its place."""

    STANDBY = "standby"
    """Its result is not kept, and nobody needed it so far."""

    UNSUPPLIED = "unsupplied"
    """It must run; an input that is not kept is being made again."""

    READY = "ready"
    """It must run; resources are not free yet."""

    HELD = "held"
    """It must run; a timer or a person's approval is awaited."""

    ELSEWHERE = "elsewhere"
    """Another run is making the same result."""

    RUNNING = "running"
    BACKOFF = "backoff"
    """An attempt failed; the next one waits for its time."""

    REUSED = "reused"
    SUCCEEDED = "succeeded"
    CAUGHT = "caught"
    """It failed, and that is its result."""

    FAILED = "failed"
    CANCELLED = "cancelled"


class RunState(StrEnum):
    """Where a run stands."""

    PENDING = "pending"
    """A driver was started for it, which has not taken it over yet."""

    RUNNING = "running"
    WAITING = "waiting"
    """Nothing can go on before a timer, a person, or another run."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """A step failed in a way that repeats itself; after a change the same run continues."""

    RESUMABLE = "resumable"
    """It was stopped from outside; the same command continues it."""

    CANCELLED = "cancelled"
    """Somebody asked for its end; only the same command continues it, not ``--resume-all``."""


State = TypeVar("State", StepState, RunState)

STEP_MOVES: Mapping[StepState, frozenset[StepState]] = {
    StepState(state): frozenset(StepState(move) for move in moves.split())
    for state, moves in {
        "waiting": "reused ready running unsupplied expanded standby",
        "standby": "ready unsupplied",
        "unsupplied": "ready",
        "ready": "running held elsewhere",
        "held": "ready",
        "elsewhere": "ready reused",
        "running": "succeeded caught backoff failed cancelled waiting",
        "backoff": "running succeeded",
        "expanded": "",
        "reused": "",
        "succeeded": "",
        "caught": "",
        "failed": "",
        "cancelled": "",
    }.items()
}
"""States of a step within one epoch; the next epoch starts all of them over from WAITING.

From WAITING to RUNNING goes a step that follows another one in the same place, and back again if
that one made nothing.
"""

RUN_MOVES: Mapping[RunState, frozenset[RunState]] = {
    RunState.PENDING: frozenset({RunState.RUNNING, RunState.RESUMABLE}),
    RunState.RUNNING: frozenset(set(RunState) - {RunState.RUNNING, RunState.PENDING}),
    RunState.WAITING: frozenset(set(RunState) - {RunState.WAITING, RunState.PENDING}),
    RunState.SUCCEEDED: frozenset({RunState.RUNNING}),
    RunState.FAILED: frozenset({RunState.RUNNING}),
    RunState.RESUMABLE: frozenset({RunState.RUNNING}),
    RunState.CANCELLED: frozenset({RunState.RUNNING}),
}
"""States of a run; from the last four the same command starts the next epoch."""

DONE = frozenset({StepState.REUSED, StepState.SUCCEEDED, StepState.CAUGHT})
"""Steps whose result is committed."""


def move(table: Mapping[State, frozenset[State]], current: State, new: State) -> State:
    """Return ``new`` if the table allows to go there; raises ValueError if not."""
    if new not in table[current]:
        raise ValueError(f"cannot go from {current} to {new}")
    return new
