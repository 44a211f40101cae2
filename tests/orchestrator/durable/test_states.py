import pytest

from orchestrator.durable.states import (
    DONE,
    RUN_MOVES,
    STEP_MOVES,
    RunState,
    StepState,
    move,
)


def test_every_state_has_a_row() -> None:
    assert set(STEP_MOVES) == set(StepState)
    assert set(RUN_MOVES) == set(RunState)


def test_a_committed_step_stays_so() -> None:
    assert all(not STEP_MOVES[state] for state in DONE)


def test_every_end_of_a_run_can_be_followed_by_a_next_epoch() -> None:
    assert all(
        RUN_MOVES[state] == {RunState.RUNNING}
        for state in RUN_MOVES
        if state not in ("pending", "running", "waiting")
    )


def test_a_pending_run_is_taken_over_or_left_behind() -> None:
    assert RUN_MOVES[RunState.PENDING] == {RunState.RUNNING, RunState.RESUMABLE}
    assert not any(RunState.PENDING in moves for moves in RUN_MOVES.values())


def test_a_move_outside_the_table_is_a_bug() -> None:
    assert move(STEP_MOVES, StepState.WAITING, StepState.READY) is StepState.READY
    assert move(RUN_MOVES, RunState.RUNNING, RunState.FAILED) is RunState.FAILED
    with pytest.raises(ValueError, match="cannot go from succeeded to running"):
        move(STEP_MOVES, StepState.SUCCEEDED, StepState.RUNNING)
