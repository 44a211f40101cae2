"""Where attempts run: the interface, and the plain one."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol, TypeAlias

from orchestrator.artifacts.manifest import Manifest
from orchestrator.durable.attempt import Task, execute
from orchestrator.durable.errors import ClusterError
from orchestrator.durable.events import Event, EventReporter
from orchestrator.durable.failures import Failure
from orchestrator.durable.step import Step
from orchestrator.store import Store

Send: TypeAlias = Callable[[Event], None]
"""Takes the events of running steps, in the driver."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """What there is to run steps on."""

    cpus: float = inf
    gpus: float = inf
    node_ids: tuple[str, ...] = ("here",)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a submitted attempt ended."""

    step: str
    result: Manifest | Failure
    seconds: float | None = None
    """How long it took, commit included; None if it did not come that far."""


class Executor(Protocol):
    """Runs attempts; used by one thread."""

    def capacity(self) -> Capacity:
        """Everything there is, free or not."""

    def submit(self, tasks: Sequence[Task]) -> None:
        """Start attempts that run one after another with the resources of one, or queue them."""

    def poll(self, wait_s: float) -> list[Outcome]:
        """Return attempts that ended, waiting up to ``wait_s`` for the first."""

    def cancel(self, steps: Collection[str] | None = None) -> None:
        """Stop the attempts of these steps, or all; none of them runs any more afterwards."""

    def close(self) -> None:
        """Let go of what the executor holds; attempts have ended or were cancelled."""


StartExecutor: TypeAlias = Callable[[Send], Executor]
"""Makes an executor when the first step really has to run."""


class InProcessExecutor:
    """Runs attempts in the driver, one at a time, in the order they came."""

    def __init__(self, send: Send, capacity: Capacity | None = None) -> None:
        self._send, self._capacity = send, capacity or Capacity()
        self._queue: deque[Task] = deque()

    def capacity(self) -> Capacity:
        """As given; unlimited otherwise."""
        return self._capacity

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue them."""
        self._queue += tasks

    def poll(self, wait_s: float) -> list[Outcome]:
        """Run the next one to its end."""
        if not self._queue:
            return []
        return [attempt(self._queue.popleft(), self._send, Failure.of)]

    def cancel(self, steps: Collection[str] | None = None) -> None:
        """Forget what is queued; nothing runs between two polls."""
        left = [task for task in self._queue if steps is not None and task.step.name not in steps]
        self._queue = deque(left)

    def close(self) -> None:
        """Nothing is held."""


def attempt(task: Task, send: Send, describe: Callable[[Exception], Failure]) -> Outcome:
    """Run an attempt to its end, whatever that is, but for an interrupt."""
    name, start_s = task.step.name, time.monotonic()
    result: Manifest | Failure
    try:
        result = execute(task, EventReporter(name, send))
    except Exception as error:  # noqa: BLE001 - a step may raise anything
        result = describe(error)
    return Outcome(name, result, time.monotonic() - start_s)


def check_capacity(steps: Iterable[Step], capacity: Capacity) -> None:
    """Raise ClusterError if a step needs more than there is, and would wait for ever."""
    for step in steps:
        needs = step.resources
        if needs.all_cpus > capacity.cpus or needs.all_gpus > capacity.gpus:
            raise ClusterError(
                f"step {step.name!r} needs {needs.all_cpus:g} CPUs and {needs.all_gpus:g} GPUs, "
                f"there are {capacity.cpus:g} and {capacity.gpus:g}: use fewer workers, or "
                "add machines"
            )


def check_store_reaches(store: Store, node_ids: tuple[str, ...]) -> None:
    """Raise ClusterError if several nodes would each see another store."""
    if len(node_ids) > 1 and not store.is_shared:
        raise ClusterError(
            f"store {store.url} is a directory of this machine, but the cluster has "
            f"{len(node_ids)} nodes: use a shared store such as s3://bucket/prefix, or, if every "
            "node mounts this directory, say so with file:///directory?shared=true"
        )
