import threading
from collections.abc import Callable, Iterator

import pytest

from orchestrator.tracking.point import Point
from orchestrator.tracking.writer import BackgroundWriter


class Target:
    """Takes points, unless it is away; counts requests."""

    def __init__(self) -> None:
        self.is_away = threading.Event()
        self.asked = threading.Event()
        self.requests: list[tuple[str, list[Point]]] = []

    def points(self, step: str, points: list[Point]) -> None:
        self.asked.set()
        if self.is_away.is_set():
            raise ConnectionError("away")
        self.requests.append((step, list(points)))

    @property
    def values(self) -> list[float]:
        return [point.value for _, points in self.requests for point in points]


def points(*values: float) -> list[Point]:
    return [Point("loss", int(value), value, 0) for value in values]


@pytest.fixture
def target() -> Target:
    return Target()


@pytest.fixture
def told() -> list[str]:
    return []


Open = Callable[..., BackgroundWriter[Target]]


@pytest.fixture
def start(target: Target, told: list[str]) -> Iterator[Open]:
    writers: list[BackgroundWriter[Target]] = []

    def make(capacity: int = 1000, gather_s: float = 0.0) -> BackgroundWriter[Target]:
        writer = BackgroundWriter(
            lambda: target,
            lambda error: isinstance(error, ConnectionError),
            told.append,
            capacity=capacity,
            gather_s=gather_s,
        )
        writers.append(writer)
        return writer

    yield make
    for writer in writers:
        writer.close(0.0)


def test_points_that_wait_travel_together_in_order(start: Open, target: Target) -> None:
    writer = start(gather_s=60.0)
    for value in range(5):
        writer.points("finetune", points(value))
    assert not writer.close(5.0)
    assert [len(request) for _, request in target.requests] == [5]
    assert target.values == [0, 1, 2, 3, 4]


def test_nothing_is_lost_while_the_server_is_away(
    start: Open, target: Target, told: list[str]
) -> None:
    target.is_away.set()
    writer = start()
    writer.points("finetune", points(1, 2))
    assert target.asked.wait(5.0)
    writer.points("finetune", points(3))
    target.is_away.clear()
    assert not writer.close(10.0)
    assert target.values == [1, 2, 3]
    assert ["does not answer" in told[0], "is back" in told[1]] == [True, True]


def test_a_full_queue_drops_and_counts_what_has_no_room(start: Open, target: Target) -> None:
    target.is_away.set()
    writer = start(capacity=3)
    writer.points("finetune", points(1, 2))
    writer.points("finetune", points(3, 4, 5))
    left = writer.close(0.0)
    assert (left.points, left.dropped) == (3, 2)


def test_closing_tells_what_could_not_be_written(start: Open, target: Target) -> None:
    target.is_away.set()
    writer = start()
    writer.points("finetune", points(1))
    writer.write(lambda _: None)
    left = writer.close(0.1)
    assert (left.points, left.writes) == (1, 1)
    assert str(left) == "1 points, 1 other records"


def test_a_refused_write_does_not_hold_up_the_next(
    start: Open, target: Target, told: list[str]
) -> None:
    def refused(_: Target) -> None:
        raise ValueError("no such thing")

    writer = start()
    writer.write(refused)
    writer.points("finetune", points(1))
    assert writer.close(5.0).refused == ("no such thing",)
    assert target.values == [1]
    assert told == ["not recorded in MLflow: no such thing"]


def test_what_connecting_raises_reaches_who_waits_for_it(told: list[str]) -> None:
    def fail() -> Target:
        raise OSError("no way")

    writer = BackgroundWriter(fail, lambda _: True, told.append)
    with pytest.raises(OSError, match="no way"):
        writer.wait_connected(5.0)
    writer.write(lambda _: None)
    assert writer.close(1.0).writes == 1
