"""A Ray cluster of several nodes on this machine, kept by a process of its own.

One line of JSON on standard input is one request, ``[method, arguments...]``; one line on standard
output is its answer. The cluster ends with the input, and so with whoever asked for it. It lies in
another process than the tests because ``Cluster`` changes what its process knows of Ray.
"""

import json
import os
import sys
import tempfile
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from ray._private.node import Node

SYSTEM = {
    # A node that says nothing is given up after 3 s instead of half a minute.
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 5,
}


class Host:
    """The cluster and its nodes by name; the head is called ``head`` and runs no steps."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self._nodes: dict[str, Node] = {}

    def start(self) -> str:
        """Start a cluster after whatever is left of the last one; returns its address."""
        self.stop()
        self._nodes["head"] = self._cluster.add_node(
            num_cpus=0, include_dashboard=False, _system_config=SYSTEM
        )
        return str(self._cluster.address)

    def add(self, name: str, cpus: int, ip: str | None) -> str:
        """Add a node, at an address of its own if one is given; returns its id in Ray."""
        where = {"node_ip_address": ip} if ip else {}
        self._nodes[name] = self._cluster.add_node(num_cpus=cpus, node_name=name, **where)
        return str(self._nodes[name].node_id)

    def names(self) -> list[str]:
        """The nodes that there are, the head among them."""
        return list(self._nodes)

    def processes(self, name: str) -> list[int]:
        """Raylet, agents and workers of a node."""
        node = self._nodes[name]
        started = [info.process for found in node.all_processes.values() for info in found]
        family = [psutil.Process(process.pid) for process in started if process.poll() is None]
        children = [child for parent in family for child in parent.children(recursive=True)]
        return [process.pid for process in (*family, *children)]

    def stop(self) -> None:
        """End all nodes."""
        for name in list(self._nodes):
            self.kill(name)

    def kill(self, name: str) -> None:
        """End a node as a loss of power does: nobody can say goodbye."""
        left = [psutil.Process(pid) for pid in self.processes(name)]
        for process in left:
            process.kill()
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)
        psutil.wait_procs(left, timeout=10)


def main() -> None:
    host = Host()
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        with redirect_stdout(sys.stderr):
            answer: Any = getattr(host, method)(*arguments)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    host.stop()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(
        prefix="gr-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        # Without it, `Cluster` would note its address where `ray.init("auto")` of others looks.
        os.environ["RAY_TMPDIR"] = folder
        main()
