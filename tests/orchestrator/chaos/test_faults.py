from collections import Counter

import pytest

from orchestrator.chaos import FaultKind, draw_faults


def test_equal_seeds_give_equal_schedules() -> None:
    assert draw_faults(30, seed=3) == draw_faults(30, seed=3) != draw_faults(30, seed=4)


def test_a_longer_schedule_begins_like_a_shorter_one() -> None:
    assert draw_faults(30, seed=3)[:7] == draw_faults(7, seed=3)


def test_every_kind_comes_as_often_as_the_others() -> None:
    counts = Counter(fault.kind for fault in draw_faults(25, seed=0))
    assert set(counts) == set(FaultKind)
    assert set(counts.values()) == {2, 3}


def test_only_what_was_asked_for_happens() -> None:
    only = draw_faults(5, seed=0, kinds=[FaultKind.CLOCK])
    assert {fault.kind for fault in only} == {FaultKind.CLOCK}


@pytest.mark.parametrize(("count", "kinds"), [(0, list(FaultKind)), (3, [])])
def test_a_schedule_of_nothing_is_refused(count: int, kinds: list[FaultKind]) -> None:
    with pytest.raises(ValueError, match="a schedule needs faults"):
        draw_faults(count, seed=0, kinds=kinds)
