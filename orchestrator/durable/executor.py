"""Where attempts run: the interface, and the plain one."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Protocol, TypeAlias

from orchestrator.artifacts.manifest import Manifest, committed
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
    nodes: Mapping[str, tuple[float, float]] = field(default_factory=lambda: {"here": (inf, inf)})
    """CPUs and GPUs of each node, by its id."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a submitted attempt ended."""

    step: str
    result: Manifest | Failure | None
    """None if it was not begun: what it follows made nothing, or its own result is there."""

    seconds: float | None = None
    """How long it took, commit included; None if it did not come that far."""


class Executor(Protocol):
    """Runs attempts; used by one thread."""

    def capacity(self) -> Capacity:
        """Everything there is, free or not."""

    def submit(self, tasks: Sequence[Task]) -> None:
        """Start or queue attempts that run one after another with the resources of one.

        All of them end in the same poll, in this order.
        """

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
        self._queue: deque[Sequence[Task]] = deque()

    def capacity(self) -> Capacity:
        """As given; unlimited otherwise."""
        return self._capacity

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue them."""
        self._queue.append(tasks)

    def poll(self, wait_s: float) -> list[Outcome]:
        """Run what was submitted first to its end."""
        return run_all(self._queue.popleft(), self._send, Failure.of) if self._queue else []

    def cancel(self, steps: Collection[str] | None = None) -> None:
        """Forget what is queued; nothing runs between two polls."""
        left = [
            tasks
            for tasks in self._queue
            if steps is not None and not any(task.step.name in steps for task in tasks)
        ]
        self._queue = deque(left)

    def close(self) -> None:
        """Nothing is held."""


def run_all(
    tasks: Sequence[Task], send: Send, describe: Callable[[Exception], Failure]
) -> list[Outcome]:
    """Run attempts to their end, whatever that is, but for an interrupt."""
    made: dict[str, Manifest] = {}
    outcomes = []
    for task in tasks:
        name, start_s = task.step.name, time.monotonic()
        result: Manifest | Failure | None = None
        try:
            known = task.after(made) if task.follows else task
            # Who follows was not looked up by the driver.
            if known and not (task.follows and committed(known.store, known.key)):
                result = execute(known, EventReporter(name, send))
        except Exception as error:  # noqa: BLE001 - a step may raise anything
            result = describe(error)
        if isinstance(result, Manifest):
            made[name] = result
        outcomes.append(Outcome(name, result, time.monotonic() - start_s if result else None))
    return outcomes


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
        nodes = capacity.nodes
        if not any(needs.cpus <= cpus and needs.gpus <= gpus for cpus, gpus in nodes.values()):
            largest, (cpus, gpus) = max(nodes.items(), key=lambda node: sum(node[1]))
            raise ClusterError(
                f"step {step.name!r} needs {needs.cpus:g} CPUs and {needs.gpus:g} GPUs on one "
                f"node, the largest, {largest}, has {cpus:g} and {gpus:g}: ask for less, or add "
                "a larger machine"
            )


def check_store_reaches(store: Store, node_ids: Collection[str]) -> None:
    """Raise ClusterError if several nodes would each see another store."""
    if len(node_ids) > 1 and not store.is_shared:
        raise ClusterError(
            f"store {store.url} is a directory of this machine, but the cluster has "
            f"{len(node_ids)} nodes: use a shared store such as s3://bucket/prefix, or, if every "
            "node mounts this directory, say so with file:///directory?shared=true"
        )
