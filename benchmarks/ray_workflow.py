"""Trivial steps on ``ray.workflow``, for `benchmarks/durable.py`.

Runs under a Python with ray 2.47.1 and pyarrow, which ``ray.workflow`` needs. Reads lines such as
``chain 100`` from standard input and answers each with seconds.
"""

import sys
import tempfile
import time
from typing import Any

import ray
from ray import workflow


@ray.remote
def one(before: int = 0) -> int:
    """A trivial step."""
    return 1


@ray.remote
def many(*parts: int) -> int:
    """Takes what others made."""
    return len(parts)


def chain(count: int) -> Any:  # noqa: ANN401 - Ray's
    """Each takes the one before."""
    node = one.bind()
    for _ in range(count - 1):
        node = one.bind(node)
    return node


def fan(count: int) -> Any:  # noqa: ANN401 - Ray's
    """None takes another, but for the last, which `ray.workflow` asks for."""
    return many.bind(*(one.bind() for _ in range(count)))


def answer(shape: str, count: int, number: int) -> float:
    """Seconds of one run, or of the resume of a finished one."""
    name = f"{shape}-{number}"
    if shape == "resume":
        workflow.run(chain(count), workflow_id=name)
    start = time.perf_counter()
    if shape == "resume":
        workflow.resume(name)
    else:
        workflow.run({"chain": chain, "fan": fan}[shape](count), workflow_id=name)
    return time.perf_counter() - start


if __name__ == "__main__":
    ray.init(
        address="local",
        num_cpus=2,
        storage=tempfile.mkdtemp(dir=sys.argv[1]),
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    for number, line in enumerate(sys.stdin):
        shape, count = line.split()
        print(f"seconds {answer(shape, int(count), number)}", flush=True)  # noqa: T201
