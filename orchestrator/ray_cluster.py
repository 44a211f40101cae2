"""What a Ray cluster has, as its head says, and whether the head still says anything."""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass

import ray

from orchestrator.durable.executor import Capacity
from orchestrator.store import DurableError

PATIENCE_S = 30.0
"""Ray itself ends a process without a word when the head was silent for 60 s."""

_EVERY_S = 1.0
_LONGEST_S = 12.0
"""No more counts as silence between two looks: the driver itself may have been stopped."""


@dataclass(eq=False)
class ClusterLostError(DurableError):
    """The cluster that ran the steps is gone; what was committed before is safe."""

    what_happened: str

    @property
    def exit_code(self) -> int:
        """3: the same command continues the run, on this cluster or another one."""
        return 3

    def __str__(self) -> str:
        return (
            f"{self.what_happened}: give the same command again when a cluster is there; "
            "finished steps are not done twice"
        )


class ClusterView:
    """Asks the head again and again, from a thread of its own since a lost head lets calls hang.

    ``lost_nodes`` are the ids of nodes that the cluster has given up.

    Args:
        patience_s: How long the head may be silent, while it restarts for instance.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        here = ray.get_runtime_context()
        self._address, self._own_node = here.gcs_address, here.get_node_id()
        self._capacity, self.lost_nodes = _ask()
        self._answers = self._seen = 0
        self._looked_s, self._silence_s = time.monotonic(), 0.0
        self._stopped = threading.Event()
        threading.Thread(target=self._keep_asking, daemon=True).start()

    def capacity(self) -> Capacity:
        """All that the living nodes had at the last answer."""
        return self._capacity

    def check(self) -> None:
        """Raise ClusterLostError if the head was silent for too long, or this node is given up.

        Ray starts nothing for a driver whose node is gone, and does not say so.
        """
        if self._own_node in self.lost_nodes:
            raise ClusterLostError(f"the Ray cluster at {self._address} has lost the driver's node")
        now_s = time.monotonic()
        passed_s, self._looked_s = min(now_s - self._looked_s, _LONGEST_S), now_s
        if self._answers != self._seen:
            self._seen, self._silence_s = self._answers, 0.0
            return
        self._silence_s += passed_s
        if self._silence_s > self._patience_s:
            raise ClusterLostError(
                f"the head of the Ray cluster at {self._address} has not answered for "
                f"{self._patience_s:g} s"
            )

    def close(self) -> None:
        """Stop asking."""
        self._stopped.set()

    def _keep_asking(self) -> None:
        while not self._stopped.wait(_EVERY_S):
            with suppress(Exception):  # Ray raises bare ones; no answer is what counts
                self._capacity, self.lost_nodes = _ask()
                self._answers += 1


def _ask() -> tuple[Capacity, frozenset[str]]:
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    alive = {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}
    capacity = Capacity(
        cpus=total.get("CPU", 0),
        gpus=total.get("GPU", 0),
        nodes={name: (node.get("CPU", 0), node.get("GPU", 0)) for name, node in alive.items()},
    )
    return capacity, frozenset(node["NodeID"] for node in nodes if not node["Alive"])
