"""Attempts of durable steps as Ray tasks."""

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError

from orchestrator.artifacts.manifest import Manifest
from orchestrator.durable.attempt import Task, execute
from orchestrator.durable.events import Event, EventReporter
from orchestrator.durable.executor import Capacity, Outcome, Send
from orchestrator.durable.failures import Failure, FailureKind, classify
from orchestrator.scratch import scratch, sweep

_GRACE_S = 10.0
_DRAIN_S = 0.2
"""Between two looks at the board while no step ends."""

_SEVEREST_FIRST = (
    # A lost machine makes the other ranks fail in any way, and a bug in one rank breaks the
    # connections of the others.
    FailureKind.PREEMPTION,
    FailureKind.SYSTEM,
    FailureKind.PERMANENT,
    FailureKind.TRANSIENT,
)


class RayExecutor:
    """Runs each attempt as a Ray task on the cluster that this process is connected to."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._board: Any = ray.remote(num_cpus=0, max_restarts=-1)(Board).remote()
        self._asked: Any = None
        self._running: dict[ray.ObjectRef[Any], str] = {}
        self._drain_due_s = 0.0

    def capacity(self) -> Capacity:
        """All that the cluster's living nodes have."""
        total = ray.cluster_resources()  # type: ignore[no-untyped-call]
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        return Capacity(
            cpus=total.get("CPU", 0),
            gpus=total.get("GPU", 0),
            node_ids=tuple(node["NodeID"] for node in nodes if node["Alive"]),
        )

    def submit(self, task: Task) -> None:
        """Start a Ray task; Ray's own retries are off, since ours know the cause."""
        needs = task.step.resources
        remote = ray.remote(_attempt).options(
            name=task.step.name, num_cpus=needs.cpus, num_gpus=needs.gpus, max_retries=0
        )
        self._running[remote.remote(task, self._board)] = task.step.name

    def poll(self, wait_s: float) -> list[Outcome]:
        """Hand on what the steps said, and return those that ended."""
        ready: list[ray.ObjectRef[Any]] = []
        if self._running:
            ready, _ = ray.wait(list(self._running), timeout=wait_s)
        ended = [(self._running.pop(reference), _result(reference)) for reference in ready]
        is_due = time.monotonic() >= self._drain_due_s
        if is_due or any(result.has_spoken for _, result in ended):
            self._drain()
            self._drain_due_s = time.monotonic() + _DRAIN_S
        return [Outcome(step, result.outcome) for step, result in ended]

    def cancel(self, steps: Collection[str] | None = None) -> None:
        """Interrupt tasks; kill those that do not stop within a grace time."""
        pending = [ref for ref, name in self._running.items() if steps is None or name in steps]
        for is_forced in (False, True):
            for reference in pending:
                ray.cancel(reference, force=is_forced)
            if pending:
                ended, pending = ray.wait(pending, num_returns=len(pending), timeout=_GRACE_S)
                for reference in ended:
                    del self._running[reference]

    def close(self) -> None:
        """Hand on the last words and remove the board."""
        self._drain()
        ray.kill(self._board)

    def _drain(self) -> None:
        """Send on what is on the board; a slow board keeps its answer for the next time."""
        was_asked, self._asked = self._asked, self._asked or self._board.take.remote()
        if not ray.wait([self._asked], timeout=_GRACE_S)[0]:
            return
        asked, self._asked = self._asked, None
        try:
            events: list[Event] = ray.get(asked)
        except RayError:
            # The board's node is gone: Ray restarts it elsewhere, and only progress is lost.
            return
        for event in events:
            self._send(event)
        if was_asked:
            self._drain()


class Board:
    """Actor where running steps leave events and the driver collects them."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def put(self, event: Event) -> None:
        """Leave an event."""
        self._events.append(event)

    def take(self) -> list[Event]:
        """Collect what was left since the last time, in order of arrival."""
        events, self._events = self._events, []
        return events

    def flush(self) -> None:
        """Return when all earlier calls of the same process have arrived."""


@dataclass(slots=True)
class _Pin:
    """Leaves events on the board without waiting; travels to further Ray workers."""

    board: Any = field(repr=False)
    was_used: bool = False

    def __call__(self, event: Event) -> None:
        self.was_used = True
        self.board.put.remote(event)


@dataclass(frozen=True, slots=True)
class _Ended:
    outcome: Manifest | Failure
    has_spoken: bool
    """Whether there may be events on the board that have to be handed on first."""


def _attempt(task: Task, board: Any) -> _Ended:  # noqa: ANN401 - Ray's handle type
    pin = _Pin(board)
    outcome: Manifest | Failure
    _sweep_once()
    try:
        with scratch():
            outcome = execute(task, EventReporter(task.step.name, pin))
    except Exception as error:  # noqa: BLE001 - a step may raise anything
        outcome = describe(error)
    finally:
        if pin.was_used:
            ray.wait([board.flush.remote()], timeout=_GRACE_S)
    return _Ended(outcome, pin.was_used)


@cache
def _sweep_once() -> None:
    sweep()


def _result(reference: "ray.ObjectRef[Any]") -> _Ended:
    try:
        ended: _Ended = ray.get(reference)
    except RayError as error:
        return _Ended(describe(error), has_spoken=True)
    return ended


def describe(error: Exception) -> Failure:
    """Find what really went wrong behind the wrappers of Ray and Ray Train, and its class."""
    causes = [(_kind(cause), cause) for cause in _innermost(error)]
    kind, cause = min(causes, key=lambda found: _SEVEREST_FIRST.index(found[0]))
    whole = Failure.of(error, kind)
    if cause is error:
        return whole
    inner = Failure.of(cause, kind)
    return Failure(
        kind=kind,
        error_type=inner.error_type,
        message=inner.message,
        error_types=inner.error_types,
        traceback_text=whole.traceback_text,
        error=inner.error,
    )


def _innermost(error: Exception) -> Iterator[Exception]:
    """The errors that ``error`` carries: Ray Train reports one per rank, each wrapped."""
    wrappers = ("cause", "controller_failure", "health_check_failure", "_base_exc")
    inner = [getattr(error, name, None) for name in wrappers]
    inner += getattr(error, "worker_failures", {}).values()
    found = [cause for cause in inner if isinstance(cause, Exception) and cause is not error]
    if not found:
        yield error
    for cause in found:
        yield from _innermost(cause)


def _kind(error: Exception) -> FailureKind:
    if getattr(error, "preempted", False) or hasattr(error, "preemption_info"):
        return FailureKind.PREEMPTION
    is_lost = isinstance(error, RayError) and not isinstance(error, RayTaskError)
    if is_lost and not isinstance(error, TaskCancelledError):
        return FailureKind.SYSTEM
    return classify(error)
