"""Attempts of durable steps as Ray tasks."""

import time
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.durable.attempt import Task
from orchestrator.durable.events import Event
from orchestrator.durable.executor import Capacity, Outcome, Send, run_all
from orchestrator.durable.failures import Failure, FailureKind, classify
from orchestrator.ray_cluster import PATIENCE_S, ClusterLostError, ClusterView
from orchestrator.scratch import scratch, sweep

_GRACE_S = 10.0
_DRAIN_S = 0.2
"""Between two looks at the board while no step ends."""

_NO_BOARD = (ValueError, RayError)
"""What Ray raises for an actor that it does not find: only progress is lost with it."""

_SEVEREST_FIRST = (
    # A lost machine makes the other ranks fail in any way, and a bug in one rank breaks the
    # connections of the others.
    FailureKind.PREEMPTION,
    FailureKind.SYSTEM,
    FailureKind.PERMANENT,
    FailureKind.TRANSIENT,
)


class RayExecutor:
    """Runs each attempt as a Ray task on the cluster that this process is connected to.

    A cluster whose head is lost ends the run, resumable.

    Args:
        send: Takes the events of running steps.
        patience_s: How long the head may be silent before it counts as lost.
    """

    def __init__(self, send: Send, patience_s: float = PATIENCE_S) -> None:
        self._send = send
        self._cluster = ClusterView(patience_s)
        self._is_lost = False
        # Job numbers start over with every cluster, worker ids do not.
        driver = ray.get_runtime_context().get_worker_id()
        self._pin = _Pin(f"gammaray-board-{driver}", uuid.uuid4().hex)
        self._board = _new_board(self._pin.board)
        self._asked: Any = None
        self._running: dict[ray.ObjectRef[Any], Sequence[Task]] = {}
        self._places: dict[str, str] = {}
        self._drain_due_s = 0.0

    def capacity(self) -> Capacity:
        """All that the cluster's living nodes have."""
        return self._cluster.capacity()

    def submit(self, tasks: Sequence[Task]) -> None:
        """Start a Ray task; Ray's own retries are off, since ours know the cause."""
        first, needs = tasks[0].step, tasks[0].step.resources
        remote = _ATTEMPTS.options(
            name=first.name if len(tasks) == 1 else f"{first.name} and {len(tasks) - 1} more",
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            # Not in the place that Ray Tune has reserved for a trial's driver.
            scheduling_strategy="DEFAULT",
        )
        self._running[remote.remote(tasks, self._pin)] = tasks

    def poll(self, wait_s: float) -> list[Outcome]:
        """Hand on what the steps said, and return those that ended.

        Raises:
            ClusterLostError: If the head of the cluster is gone.
        """
        try:
            self._cluster.check()
        except ClusterLostError:
            self._is_lost = True
            raise
        ready: list[ray.ObjectRef[Any]] = []
        if self._running:
            ready, _ = ray.wait(list(self._running), timeout=wait_s)
        ended = [_result(reference, self._running.pop(reference)) for reference in ready]
        is_due = time.monotonic() >= self._drain_due_s
        if is_due or any(result.has_spoken for result in ended):
            self._drain()
            self._drain_due_s = time.monotonic() + _DRAIN_S
        return [outcome for result in ended for outcome in result.outcomes] + self._cut_off()

    def cancel(self, steps: Collection[str] | None = None) -> None:
        """Interrupt tasks; kill those that do not stop within a grace time.

        On a lost cluster nothing is done: every call would hang, and what runs there ends with
        it or commits what the next driver would.
        """
        if self._is_lost:
            return
        pending = [
            reference
            for reference, tasks in self._running.items()
            if steps is None or any(task.step.name in steps for task in tasks)
        ]
        for is_forced in (False, True):
            for reference in pending:
                ray.cancel(reference, force=is_forced)
            if pending:
                ended, pending = ray.wait(pending, num_returns=len(pending), timeout=_GRACE_S)
                for reference in ended:
                    del self._running[reference]

    def close(self) -> None:
        """Hand on the last words."""
        self._cluster.close()
        if not self._is_lost:
            self._drain()

    def _cut_off(self) -> list[Outcome]:
        """Give up the attempts on nodes that the cluster gave up.

        Ray says so itself when connections break. From a node that only fell silent, it goes on
        waiting for an answer for some 7 minutes.
        """
        outcomes = []
        for reference, tasks in list(self._running.items()):
            node = self._places.get(tasks[0].root)
            if node in self._cluster.lost_nodes:
                del self._running[reference]
                error = NodeLostError(f"node {node} no longer answers")
                failure = Failure.of(error, FailureKind.SYSTEM)
                outcomes += [Outcome(task.step.name, failure) for task in tasks]
        return outcomes

    def _drain(self) -> None:
        """Send on what is on the board; a board that is away for long is waited for only once."""
        was_asked, self._asked = (
            self._asked,
            self._asked or self._board.take.remote(self._pin.channel),
        )
        if not ray.wait([self._asked], timeout=0 if was_asked else _GRACE_S)[0]:
            return
        asked, self._asked = self._asked, None
        try:
            events, places = ray.get(asked)
        except RayError:
            # The board's node is gone: Ray restarts it elsewhere, and only progress is lost.
            return
        running = {tasks[0].root for tasks in self._running.values()}
        self._places = {
            root: node for root, node in (self._places | places).items() if root in running
        }
        for event in events:
            self._send(event)
        if was_asked:
            self._drain()


class NodeLostError(Exception):
    """The node that a step ran on fell silent; what it may still commit changes nothing."""


class Noticeboard:
    """Actor where running steps leave events and their place, and drivers collect them."""

    def __init__(self) -> None:
        self._events: dict[str, list[Event]] = defaultdict(list)
        self._places: dict[str, dict[str, str]] = defaultdict(dict)

    def begin(self, channel: str, attempt: str, node_id: str) -> None:
        """Note where an attempt runs, and those after it."""
        self._places[channel][attempt] = node_id

    def put(self, channel: str, event: Event) -> None:
        """Leave an event for one driver."""
        self._events[channel].append(event)

    def take(self, channel: str) -> tuple[list[Event], dict[str, str]]:
        """Collect what was left since the last time: events in order of arrival, and places."""
        return self._events.pop(channel, []), self._places.pop(channel, {})

    def flush(self) -> None:
        """Return when all earlier calls of the same process have arrived."""


@lru_cache(maxsize=1)
def _new_board(name: str) -> Any:  # noqa: ANN401 - Ray's handle type
    """The board of this process's connection to Ray, which ends with it: it takes 1 s to start.

    On the driver's node, so that no other node's death costs what was said. An actor that needs
    nothing is placed by a random node, and one that has just joined does not know this one yet: it
    keeps the actor. What needs a byte of memory is placed by the driver's node.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "memory": 1, "max_restarts": -1, "scheduling_strategy": here}
    return ray.remote(Noticeboard).options(name=name, **options).remote()


@lru_cache(maxsize=1)
def _board(name: str) -> Any:  # noqa: ANN401 - Ray's handle type
    """The same board in another process."""
    return ray.get_actor(name)


@dataclass(slots=True)
class _Pin:
    """Leaves events on the board without waiting; travels to further Ray workers.

    It knows the board by name: to send a handle costs more than a quick step.
    """

    board: str
    channel: str
    was_used: bool = False

    def __call__(self, event: Event) -> None:
        self.was_used = True
        with suppress(*_NO_BOARD):
            _board(self.board).put.remote(self.channel, event)

    def begin(self, attempt: str) -> None:
        """Tell where this is, and wait until it has arrived: a node can fall silent at any time."""
        node_id = ray.get_runtime_context().get_node_id()
        with suppress(*_NO_BOARD):
            told = _board(self.board).begin.remote(self.channel, attempt, node_id)
            ray.wait([told], timeout=_GRACE_S)

    def flush(self) -> None:
        """Wait until what was left has arrived."""
        if self.was_used:
            with suppress(*_NO_BOARD):
                ray.wait([_board(self.board).flush.remote()], timeout=_GRACE_S)


@dataclass(frozen=True, slots=True)
class _Ended:
    outcomes: Sequence[Outcome]
    has_spoken: bool
    """Whether there may be events on the board that have to be handed on first."""


def _attempts(tasks: Sequence[Task], pin: _Pin) -> _Ended:
    pin.begin(tasks[0].root)
    _sweep_once()
    try:
        with scratch():
            outcomes = run_all(tasks, pin, describe)
    finally:
        pin.flush()
    return _Ended(outcomes, pin.was_used)


_ATTEMPTS = ray.remote(max_retries=0)(_attempts)
"""Made once: Ray sends a remote function to the cluster as often as it is made."""


@cache
def _sweep_once() -> None:
    sweep()


def _result(reference: "ray.ObjectRef[Any]", tasks: Sequence[Task]) -> _Ended:
    try:
        ended: _Ended = ray.get(reference)
    except RayError as error:
        failure = describe(error)
        return _Ended([Outcome(task.step.name, failure) for task in tasks], has_spoken=True)
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
