"""A driver in a process of its own: ``python -m ... '{"address": ..., ...}'``, fields of `Drive`.

It runs the chain first -> middle -> last, where ``middle`` waits for the test's word.
"""

import json
import socket
import sys
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from orchestrator.cli import exit_code_of
from orchestrator.durable import Runner, Step, open_store
from orchestrator.ownership import Lease
from orchestrator.progress import ProgressLines
from orchestrator.ray_connection import connect, on_ray

HERE = "tests.orchestrator.nodes.functions"


@dataclass(frozen=True, kw_only=True, slots=True)
class Drive:
    """What to run, and where."""

    address: str
    store: str
    log: str
    middle: str = "wait_and_write"
    ip: str | None = None
    """Address of the node that the driver belongs to; the head's if None."""
    machine: str | None = None
    """Pretended name of the driver's machine: nobody can look at another machine's processes."""


def main(drive: Drive) -> int:
    if drive.machine:
        socket.gethostname = lambda: str(drive.machine)
    Runner(
        "run",
        chain(drive),
        open_store(drive.store),
        start_executor=on_ray(partial(_join, drive), patience_s=4.0),
        observer=ProgressLines(Console(file=sys.stdout, width=400)),
        lease=Lease(ttl_s=4.0, beat_s=0.3),
    ).run()
    return 0


def chain(drive: Drive) -> list[Step]:
    settings = {"log": drive.log}
    functions = {"first": "write", "middle": drive.middle, "last": "write"}
    inputs = {"first": {}, "middle": {"before": "first"}, "last": {"before": "middle"}}
    return [
        Step(name=name, function=f"{HERE}:{function}", inputs=inputs[name], settings=settings)
        for name, function in functions.items()
    ]


def _join(drive: Drive) -> None:
    if drive.ip is not None:
        import ray

        ray.init(address=drive.address, _node_ip_address=drive.ip, log_to_driver=False)
    connect(drive.address, uses_gpus=False)


if __name__ == "__main__":
    sys.exit(exit_code_of(lambda: main(Drive(**json.loads(sys.argv[1])))))
