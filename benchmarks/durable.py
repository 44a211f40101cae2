"""What the durable run costs per step, beside Ray Workflows as it last was.

    python benchmarks/durable.py --out docs/results/durable.md
    python benchmarks/durable.py --workflow-python /path/with/ray-2.47.1/bin/python

Trivial steps (one file of a few bytes) on a local store with fsync. ``ray`` steps are Ray tasks
on two CPUs, ``process`` steps run in the driver, which shows what the store alone costs. Each
figure is the median of ``--repeats`` runs on a fresh store after one warm-up.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.durable import InProcessExecutor, Runner, Step, StepContext, open_store
from orchestrator.durable.executor import StartExecutor
from orchestrator.ray_connection import on_ray

HERE = "benchmarks.durable"
ROOT = Path(__file__).parents[1]
GIGABYTE = 10**9
WORKFLOW = """
import json, sys, tempfile, time
import ray
from ray import workflow
ray.init(num_cpus=2, storage=tempfile.mkdtemp(dir=sys.argv[1]), include_dashboard=False,
         log_to_driver=False, logging_level="ERROR")
@ray.remote
def one(before=None):
    return 1
@ray.remote
def many(*parts):
    return len(parts)
def seconds(node, name):
    start = time.perf_counter()
    workflow.run(node, workflow_id=name)
    return time.perf_counter() - start
def chain(count):
    node = one.bind()
    for _ in range(count - 1):
        node = one.bind(node)
    return node
seconds(chain(5), "warm")
n = int(sys.argv[2])
fan = int(sys.argv[3])
chains = [seconds(chain(n), f"chain{i}") * 1000 / n for i in range(3)]
fans = [seconds(many.bind(*[one.bind() for _ in range(fan)]), f"fan{i}") * 1000 / fan
        for i in range(1)]
start = time.perf_counter(); workflow.resume("chain0"); again = time.perf_counter() - start
print(json.dumps({"chain": sorted(chains)[1], "fan": fans[0], "resume": again * 1000}))
"""


def write(context: StepContext) -> None:
    """A trivial step."""
    (context.output / "text").write_text("1")


def write_much(context: StepContext) -> None:
    """An artifact of ``bytes``."""
    piece = os.urandom(1 << 24)
    left = context.params["bytes"]
    assert isinstance(left, int)
    with (context.output / "data").open("wb") as file:
        while left > 0:
            left -= file.write(piece[: min(left, len(piece))])


def chain(count: int) -> list[Step]:
    """Each takes the one before."""
    return [
        Step(
            name=f"s{number:05d}",
            function=f"{HERE}:write",
            inputs={"before": f"s{number - 1:05d}"} if number else {},
            params={"number": number},
        )
        for number in range(count)
    ]


def fan(count: int) -> list[Step]:
    """None takes another."""
    return [
        Step(name=f"s{number:05d}", function=f"{HERE}:write", params={"number": number})
        for number in range(count)
    ]


def run(store: str, steps: Sequence[Step], executor: StartExecutor) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    Runner("run", steps, open_store(store), start_executor=executor).run()
    return time.perf_counter() - start


def fresh(folder: Path, work: Callable[[str], float], repeats: int) -> float:
    """Median of ``work`` on stores of its own, after a warm-up."""
    times = []
    for _ in range(repeats + 1):
        store = tempfile.mkdtemp(dir=folder)
        times.append(work(store))
        shutil.rmtree(store)
    return statistics.median(times[1:])


def resume(folder: Path, count: int) -> tuple[float, float]:
    """Seconds in which a run of ``count`` committed steps is found finished, chain and fan."""
    found = []
    for steps in (chain(count), fan(count)):
        store = tempfile.mkdtemp(dir=folder)
        run(store, steps, InProcessExecutor)
        found.append(statistics.median(run(store, steps, InProcessExecutor) for _ in range(3)))
        shutil.rmtree(store)
    return found[0], found[1]


def memory(folder: Path, count: int) -> float:
    """Peak resident megabytes of a driver in a process of its own."""
    code = (
        "import resource, sys; from benchmarks.durable import *;"
        "run(sys.argv[1], fan(int(sys.argv[2])), InProcessExecutor);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)"
    )
    store = tempfile.mkdtemp(dir=folder)
    command = [sys.executable, "-c", code, store, str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    shutil.rmtree(store)
    return float(done.stdout)


def artifact(folder: Path, size: int, repeats: int) -> tuple[float, float]:
    """Bytes per second: a step that writes ``size`` bytes and commits; writing them with fsync."""
    ours, disk = [], []
    step = Step(name="big", function=f"{HERE}:write_much", params={"bytes": size})
    for _ in range(repeats):
        store = tempfile.mkdtemp(dir=folder)
        ours.append(size / run(store, [step], InProcessExecutor))
        shutil.rmtree(store)
        plain = Path(tempfile.mkdtemp(dir=folder))
        start = time.perf_counter()
        piece, left = os.urandom(1 << 24), size
        with (plain / "data").open("wb") as file:
            while left > 0:
                left -= file.write(piece[: min(left, len(piece))])
            file.flush()
            os.fsync(file.fileno())
        disk.append(size / (time.perf_counter() - start))
        shutil.rmtree(plain)
    return statistics.median(ours), statistics.median(disk)


def sync_time(folder: Path) -> float:
    """Median milliseconds of one small file with fsync: the unit of everything above."""
    times = []
    for number in range(50):
        start = time.perf_counter()
        with (folder / f"sync{number}").open("wb") as file:
            file.write(b"x" * 600)
            file.flush()
            os.fsync(file.fileno())
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def measure(args: argparse.Namespace, folder: Path) -> list[tuple[str, str, str]]:
    """Rows of figure, asked for, measured."""
    rows: list[tuple[str, str, str]] = []

    def add(figure: str, asked: str, measured: str) -> None:
        rows.append((figure, asked, measured))
        sys.stdout.write(f"{figure} | {asked} | {measured}\n")
        sys.stdout.flush()

    add("one file with fsync, at the start", "", f"{sync_time(folder):.2f} ms")
    executors: dict[str, StartExecutor] = {"process": InProcessExecutor}
    if not args.without_ray:
        executors["ray"] = on_ray(_start_ray)
    for name, executor in executors.items():
        for shape, steps, limit in (("chain", chain(args.chain), 6), ("fan", fan(args.fan), 3)):
            seconds = fresh(folder, lambda s, t=steps, e=executor: run(s, t, e), args.repeats)  # type: ignore[misc]
            asked = f"<= {limit} ms" if name == "ray" else ""
            add(f"{shape} of {len(steps)}, {name}", asked, f"{1000 * seconds / len(steps):.2f} ms")
    in_chain, in_fan = resume(folder, args.resume)
    add(f"resume of {args.resume}, chain / fan", "<= 2 s", f"{in_chain:.2f} s / {in_fan:.2f} s")
    few, many = memory(folder, 100), memory(folder, args.resume)
    add(f"driver memory, 100 / {args.resume} steps", "flat", f"{few:.0f} MB / {many:.0f} MB")
    ours, disk = artifact(folder, args.bytes, args.repeats)
    add(
        f"artifact of {args.bytes / GIGABYTE:g} GB",
        ">= 80 % of the disk",
        f"{ours / 1e6:.0f} MB/s, disk {disk / 1e6:.0f} MB/s: {100 * ours / disk:.0f} %",
    )
    if args.workflow_python:
        command = [args.workflow_python, "-c", WORKFLOW, str(folder), str(args.chain), str(100)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        theirs = json.loads(done.stdout.splitlines()[-1])
        for figure, unit in (("chain", "ms per step"), ("fan", "ms per step"), ("resume", "ms")):
            add(f"ray.workflow 2.47.1, {figure} of 100", "", f"{theirs[figure]:.1f} {unit}")
    add("one file with fsync, at the end", "", f"{sync_time(folder):.2f} ms")
    return rows


def _start_ray() -> None:
    import ray

    if not ray.is_initialized():
        os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


def main() -> None:
    """Measure, and write a page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--chain", type=int, default=100)
    parser.add_argument("--fan", type=int, default=1000)
    parser.add_argument("--resume", type=int, default=10_000)
    parser.add_argument("--bytes", type=int, default=2 * GIGABYTE)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--without-ray", action="store_true")
    parser.add_argument("--workflow-python", help="a Python with ray 2.47.1")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="gammaray-bench-") as folder:
        rows = measure(args, Path(folder))
    if args.out:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip()
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        args.out.write_text(
            f"# The durable run: time per step\n\n`{' '.join(['python', *sys.argv])}` at commit "
            f"{commit}, {time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPU cores "
            f"({platform.machine()}), Python {platform.python_version()}, load "
            f"{os.getloadavg()[0]:.1f} when it ended.\n\n| figure | asked for | measured |\n"
            f"|---|---|---|\n{table}\n"
        )


if __name__ == "__main__":
    from benchmarks.durable import main as imported_main

    imported_main()
