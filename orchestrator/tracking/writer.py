"""Writes in the background, in order, so that training never waits for MLflow."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Generic, Protocol, TypeVar

from orchestrator.secrets import without_credentials
from orchestrator.tracking.point import Point


class TakesPoints(Protocol):
    """What a writer writes to."""

    def points(self, step: str, points: list[Point]) -> None:
        """Write the points of the run step ``step``."""


Target = TypeVar("Target", bound=TakesPoints)

_POINTS_PER_WRITE = 1000
_RETRY_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)


@dataclass
class _Points:
    """Points of one step that travel in one request."""

    step: str
    points: list[Point] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def __call__(self, target: TakesPoints) -> None:
        target.points(self.step, self.points)


@dataclass(frozen=True)
class Leftover:
    """What a closed writer has not written."""

    writes: int = 0
    """Writes that still waited, not counting those of points."""
    points: int = 0
    """Points that still waited."""
    dropped: int = 0
    """Points that arrived while the queue was full."""
    refused: tuple[str, ...] = ()
    """Errors that trying again would not have cured."""

    def __bool__(self) -> bool:
        return bool(self.writes or self.points or self.dropped or self.refused)

    def __str__(self) -> str:
        counts = {
            "points": self.points + self.dropped,
            "other records": self.writes,
            "records that it refused": len(self.refused),
        }
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


class BackgroundWriter(Generic[Target]):
    """A thread that connects to a target and applies queued writes to it, retrying while it must.

    A write must be safe to repeat: it may have happened although its answer was lost.

    Args:
        connect: Opens the target; called in the thread, for importing MLflow takes seconds.
        is_passing: Whether trying again may cure an error.
        tell: Hears one line when the target goes away and when it is back.
        capacity: Points that wait at most; further ones are dropped and counted.
        gather_s: How long points wait for others to travel with.
    """

    def __init__(
        self,
        connect: Callable[[], Target],
        is_passing: Callable[[Exception], bool],
        tell: Callable[[str], None],
        *,
        capacity: int = 100_000,
        gather_s: float = 0.5,
    ) -> None:
        self._connect, self._is_passing, self._tell = connect, is_passing, tell
        self._capacity, self._gather_s = capacity, gather_s
        self._queue: deque[Callable[[Target], None] | _Points] = deque()
        self._current: Callable[[Target], None] | _Points | None = None
        self._waiting_points = self._dropped = 0
        self._refused: list[str] = []
        self._changed = threading.Condition()
        self._is_closing = self._is_abandoned = False
        self._connected = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def wait_connected(self, timeout_s: float) -> None:
        """Wait until the target is open.

        Raises:
            TimeoutError: If it is not open in time.
            Exception: Whatever ``connect`` raised.
        """
        if not self._connected.wait(timeout_s):
            raise TimeoutError(f"no answer within {timeout_s:g} s")
        if self._failure is not None:
            raise self._failure

    def write(self, write: Callable[[Target], None]) -> None:
        """Queue a write; returns at once."""
        with self._changed:
            self._queue.append(write)
            self._changed.notify_all()

    def points(self, step: str, points: list[Point]) -> None:
        """Queue points; returns at once. Those for which there is no room are dropped."""
        with self._changed:
            room = self._capacity - self._waiting_points
            self._dropped += max(0, len(points) - room)
            taken = points[: max(0, room)]
            self._waiting_points += len(taken)
            last = self._queue[-1] if self._queue else None
            if not isinstance(last, _Points) or last.step != step or _is_full(last):
                last = _Points(step)
                self._queue.append(last)
            last.points.extend(taken)
            self._changed.notify_all()

    def close(self, timeout_s: float) -> Leftover:
        """Write what waits, for at most ``timeout_s`` seconds; returns what could not be."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        with self._changed:
            self._is_abandoned = True
            self._changed.notify_all()
            left = [*self._queue, *([self._current] if self._current is not None else [])]
            return Leftover(
                writes=sum(not isinstance(write, _Points) for write in left),
                points=self._waiting_points,
                dropped=self._dropped,
                refused=tuple(self._refused),
            )

    def _work(self) -> None:
        try:
            target = self._connect()
        except Exception as error:  # noqa: BLE001  handed to whoever waits for the connection
            self._failure = error
            return
        finally:
            self._connected.set()
        while (write := self._next()) is not None:
            self._apply(write, target)

    def _next(self) -> Callable[[Target], None] | _Points | None:
        with self._changed:
            while not self._is_abandoned:
                delay = self._delay()
                if delay == 0.0:
                    self._current = self._queue.popleft()
                    return self._current
                if self._is_closing and not self._queue:
                    return None
                self._changed.wait(delay)
        return None

    def _delay(self) -> float | None:
        """Seconds until the head of the queue may go; None while there is nothing to do."""
        if not self._queue:
            return None
        head = self._queue[0]
        can_gather = isinstance(head, _Points) and not _is_full(head) and len(self._queue) == 1
        if not isinstance(head, _Points) or not can_gather or self._is_closing:
            return 0.0
        return max(0.0, head.since + self._gather_s - time.monotonic())

    def _apply(self, write: Callable[[Target], None] | _Points, target: Target) -> None:
        is_away = False
        for pause_s in chain(_RETRY_S, repeat(_RETRY_S[-1])):
            try:
                write(target)
            except Exception as error:  # noqa: BLE001  tracking must never stop a training
                if not self._is_passing(error):
                    said = without_credentials(str(error))
                    self._refused.append(said)
                    self._tell(f"not recorded in MLflow: {said}")
                    break
                if not is_away:
                    self._tell("MLflow does not answer; the run goes on and its records wait")
                is_away = True
                if self._is_abandoned_within(pause_s):
                    return
            else:
                if is_away:
                    self._tell("MLflow is back; the waiting records are written")
                break
        with self._changed:
            self._current = None
            if isinstance(write, _Points):
                self._waiting_points -= len(write.points)

    def _is_abandoned_within(self, pause_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._is_abandoned, pause_s)


def _is_full(points: _Points) -> bool:
    return len(points.points) >= _POINTS_PER_WRITE
