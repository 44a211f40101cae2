import math

import pytest

from workloads.training.checkpoints.timetable import Every, Timetable


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("value", "every"),
    [
        (50, Every(steps=50)),
        ("90s", Every(seconds=90.0)),
        ("10 min", Every(seconds=600.0)),
        ("1.5h", Every(seconds=5400.0)),
        ("auto", Every()),
    ],
)
def test_an_interval_is_steps_a_duration_or_automatic(value: int | str, every: Every) -> None:
    assert Every.parse(value) == every


@pytest.mark.parametrize("value", [0, -1, "0s", "often", "10", "-5min", ""])
def test_anything_else_is_refused_with_examples(value: int | str) -> None:
    with pytest.raises(ValueError, match=r"checkpoint_every must be .* '10min' .* 'auto', got"):
        Every.parse(value)


def test_steps_are_counted_whatever_the_clock_says() -> None:
    table = Timetable(Every(steps=3), failure_s=1.0, clock=Clock())
    assert [done for done in range(1, 10) if table.is_due(done)] == [3, 6, 9]
    assert table.counts_steps


def test_a_duration_starts_again_at_every_checkpoint() -> None:
    clock = Clock()
    table = Timetable(Every(seconds=60.0), failure_s=1.0, clock=clock)
    assert not table.is_due(7)
    clock.now_s += 60.0
    assert table.is_due(7)
    table.saved(2.0)
    assert not table.is_due(8)
    clock.now_s += 15.0
    assert table.left_s(9) == 45.0


def test_the_automatic_interval_follows_what_a_checkpoint_costs() -> None:
    clock = Clock()
    table = Timetable(Every(), failure_s=3600.0, clock=clock)
    table.saved(8.0)
    clock.now_s += math.sqrt(2 * 8.0 * 3600.0) - 0.1
    assert not table.is_due(1)
    clock.now_s += 0.2
    assert table.is_due(1)
    table.saved(0.5)
    assert table.left_s(2) == pytest.approx(60.0)


def test_the_time_to_the_next_checkpoint_is_known_once_steps_were_timed() -> None:
    clock = Clock()
    table = Timetable(Every(steps=10), failure_s=1.0, clock=clock)
    assert table.left_s(5) is None
    clock.now_s += 4.0
    assert table.left_s(7) == 6.0
