"""What the durable run costs per step, beside Ray Workflows as it last was.

    python benchmarks/durable.py --workflow-python RAY_2_47_1/bin/python --out PAGE
    python benchmarks/durable.py --rows chain fan --chain 20 --fan 50

Trivial steps (one file of a few bytes) on a local store with fsync. What is compared takes turns:
two rounds to warm up, then as many as ``--repeats`` says, of which the medians are shown. Each run
has a fresh store. Memory is the peak of a process of its own.
"""

import argparse
import json
import logging
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.durable import InProcessExecutor, Runner, Step, StepContext, open_store
from orchestrator.durable.executor import StartExecutor
from orchestrator.ray_connection import on_ray

HERE = "benchmarks.durable"
ROOT = Path(__file__).parents[1]
WARM_UPS = 2
PIECE = 1 << 24
ROWS = ("chain", "fan", "resume", "memory", "artifact")
Sides = Mapping[str, Callable[[], float]]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    figure: str
    asked: str
    measured: str
    beside: str = ""

    def __str__(self) -> str:
        return f"| {self.figure} | {self.asked} | {self.measured} | {self.beside} |"


def write(context: StepContext) -> None:
    """A trivial step."""
    (context.output / "text").write_text("1")


def write_much(context: StepContext) -> None:
    """An artifact of ``bytes``."""
    size = context.params["bytes"]
    assert isinstance(size, int)
    with (context.output / "data").open("wb") as file:
        fill(file.write, size)


def fill(put: Callable[[bytes], object], size: int) -> None:
    """Write random bytes, the same ones again and again."""
    piece = os.urandom(PIECE)
    for start in range(0, size, PIECE):
        put(piece[: min(PIECE, size - start)])


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


SHAPES = {"chain": chain, "fan": fan}


def run(store: str, steps: Sequence[Step], executor: StartExecutor) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    Runner("run", steps, open_store(store), start_executor=executor).run()
    return time.perf_counter() - start


def run_freshly(folder: Path, steps: Sequence[Step], executor: StartExecutor) -> float:
    """Seconds of one run in a store of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as store:
        return run(store, steps, executor)


def resume(store: str, shape: str, count: str) -> float:
    """Seconds of a run of steps that are all committed: the median of this process."""
    steps = SHAPES[shape](int(count))
    times = [run(store, steps, InProcessExecutor) for _ in range(WARM_UPS + 3)]
    return statistics.median(times[WARM_UPS:])


def memory(store: str, count: str, on: str) -> float:
    """Peak resident megabytes of this process after a run."""
    run(store, fan(int(count)), on_ray(start_ray) if on == "ray" else InProcessExecutor)
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1000


def alone(function: str, *arguments: object) -> float:
    """What a function of this file returns in a process of its own."""
    code = (
        "import json, sys; from benchmarks import durable;"
        "print(json.dumps(getattr(durable, sys.argv[1])(*sys.argv[2:])))"
    )
    command = [sys.executable, "-c", code, function, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def write_plainly(folder: Path, size: int) -> float:
    """Seconds to write a file and wait for the disk."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        start = time.perf_counter()
        fill(file.write, size)
        file.flush()
        os.fsync(file.fileno())
        return time.perf_counter() - start


def in_turns(sides: Sides, repeats: int) -> dict[str, list[float]]:
    """Seconds of each side, round by round, without the warm-ups."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(WARM_UPS + repeats):
        for name, side in sides.items():
            times[name].append(side())
    return {name: found[WARM_UPS:] for name, found in times.items()}


class Workflow:
    """``ray.workflow`` in a Python that still has it."""

    def __init__(self, python: str, folder: Path) -> None:
        self._process = subprocess.Popen(
            [python, str(ROOT / "benchmarks" / "ray_workflow.py"), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def seconds(self, shape: str, count: int) -> float:
        """Of one run."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{shape} {count}\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise RuntimeError("ray.workflow ended: run benchmarks/ray_workflow.py to see why")

    def close(self) -> None:
        """End it and its Ray."""
        self._process.communicate()


class Bench:
    """Measures the rows that are asked for."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self._args, self._folder = args, folder
        self._ray = on_ray(start_ray)
        python = args.workflow_python
        self._workflow = Workflow(python, folder) if python else None

    def rows(self) -> list[Row]:
        """Measure, and show each row when it is there."""
        found = [self._sync("start")]
        for name in ROWS:
            if name in self._args.rows:
                new: list[Row] = getattr(self, name)()
                sys.stdout.write("".join(f"{row}\n" for row in new))
                sys.stdout.flush()
                found += new
        return [*found, self._sync("end")]

    def close(self) -> None:
        """End what was started."""
        if self._workflow is not None:
            self._workflow.close()

    def chain(self) -> list[Row]:
        """Steps one after another."""
        return [self._per_step("chain", self._args.chain, 6.0)]

    def fan(self) -> list[Row]:
        """Steps beside each other."""
        return [self._per_step("fan", self._args.fan, 3.0)]

    def resume(self) -> list[Row]:
        """A finished run once more."""
        rows = []
        for shape, steps in SHAPES.items():
            with tempfile.TemporaryDirectory(dir=self._folder) as store:
                run(store, steps(self._args.resume), InProcessExecutor)
                seconds = alone("resume", store, shape, self._args.resume)
            figure = f"resume of a finished {shape} of {self._args.resume}"
            rows.append(Row(figure, "2 s", f"{seconds:.2f} s"))
        if self._workflow is not None:
            count, workflow = self._args.chain, self._workflow
            rounds = range(WARM_UPS + self._args.repeats)
            seconds = statistics.median(workflow.seconds("resume", count) for _ in rounds)
            beside = f"`ray.workflow`: {1000 * seconds:.0f} ms"
            rows.append(Row(f"resume of a finished chain of {count}", "", "", beside))
        return rows

    def memory(self) -> list[Row]:
        """Of the driver."""
        rows = []
        for on in ("process", "ray"):
            peaks = []
            for count in (100, self._args.resume):
                with tempfile.TemporaryDirectory(dir=self._folder) as store:
                    peaks.append(alone("memory", store, count, on))
            figure = f"driver's peak memory, 100 and {self._args.resume} steps, {PLACES[on]}"
            each = 1e6 * (peaks[1] - peaks[0]) / (self._args.resume - 100)
            measured = f"{peaks[0]:.0f} and {peaks[1]:.0f} MB: {each / 1000:.1f} kB per step"
            rows.append(Row(figure, "flat", measured))
        return rows

    def artifact(self) -> list[Row]:
        """One large result."""
        size, folder = self._args.bytes, self._folder
        step = Step(name="big", function=f"{HERE}:write_much", params={"bytes": size})
        sides: Sides = {
            "ours": lambda: run_freshly(folder, [step], InProcessExecutor),
            "disk": lambda: write_plainly(folder, size),
        }
        times = in_turns(sides, self._args.repeats)
        share = statistics.median(
            disk / ours for ours, disk in zip(times["ours"], times["disk"], strict=True)
        )
        speeds = {name: size / 1e6 / statistics.median(found) for name, found in times.items()}
        measured = f"{speeds['ours']:.0f} MB/s, {100 * share:.0f} % of the disk's speed"
        beside = f"disk: {speeds['disk']:.0f} MB/s"
        return [Row(f"artifact of {size / 1e9:g} GB", "80 %", measured, beside)]

    def _per_step(self, shape: str, count: int, limit_ms: float) -> Row:
        steps, folder = SHAPES[shape](count), self._folder
        sides: dict[str, Callable[[], float]] = {
            "ray": lambda: run_freshly(folder, steps, self._ray),
            "process": lambda: run_freshly(folder, steps, InProcessExecutor),
        }
        workflow = self._workflow
        if workflow is not None:
            sides["workflow"] = lambda: workflow.seconds(shape, count)
        times = in_turns(sides, self._args.repeats)
        ms = {name: 1000 * statistics.median(found) / count for name, found in times.items()}
        beside = f"without Ray: {ms['process']:.1f} ms"
        if "workflow" in ms:
            pairs = zip(times["workflow"], times["ray"], strict=True)
            ratio = statistics.median(theirs / ours for theirs, ours in pairs)
            beside += f"; `ray.workflow`: {ms['workflow']:.1f} ms, {ratio:.1f} times as long"
        figure = f"{shape} of {count} on Ray, per step"
        return Row(figure, f"{limit_ms:g} ms", f"{ms['ray']:.2f} ms", beside)

    def _sync(self, when: str) -> Row:
        """Of one small file with fsync: the unit of everything else."""
        times = []
        for number in range(50):
            file = self._folder / f"sync-{when}-{number}"
            start = time.perf_counter()
            with file.open("wb") as opened:
                opened.write(b"x" * 600)
                opened.flush()
                os.fsync(opened.fileno())
            times.append(time.perf_counter() - start)
        measured = f"{1000 * statistics.median(times):.2f} ms"
        return Row(f"one small file with fsync, at the {when}", "", measured)


PLACES = {"process": "steps in the driver", "ray": "steps on Ray"}


def start_ray() -> None:
    """A cluster of two CPUs for this process."""
    import ray

    if not ray.is_initialized():
        os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


def page(rows: Sequence[Row], load: Sequence[float]) -> str:
    """The results as a page of the documentation."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    table = "\n".join(map(str, rows))
    return f"""# The durable run: time per step

```
python benchmarks/durable.py --workflow-python RAY_2_47_1/bin/python --out docs/results/durable.md
```

{time.strftime("%Y-%m-%d")}, commit {commit}, {os.cpu_count()} CPU cores ({platform.machine()}),
Python {platform.python_version()}, no GPU, load {load[0]:.1f} before and {load[1]:.1f} after.

| figure | asked for, at most (speed: at least) | measured | beside it |
|---|---|---|---|
{table}

Steps write one file of one byte to a store on the local disk, with fsync. What stands in one line
took turns in one go: {WARM_UPS} rounds to warm up, then rounds whose median is shown; "times as
long" is the median of the ratios of each round. `ray.workflow` is that of ray 2.47.1 in an
environment of its own on a Ray of its own, with its own storage on the same disk. A resume is timed
in a process of its own, after {WARM_UPS} rounds; peak memory is that of a process that did nothing
else. The artifact is written by a step, hashed and committed; the disk's speed is that of the same
bytes written to a file and synced.
"""


def main() -> None:
    """Measure, and write a page if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--chain", type=int, default=100)
    parser.add_argument("--fan", type=int, default=1000)
    parser.add_argument("--resume", type=int, default=10_000, help="steps to resume, and of memory")
    parser.add_argument("--bytes", type=int, default=2 * 10**9)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workflow-python", help="a Python with ray 2.47.1 and pyarrow")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="gammaray-bench-") as folder:
        bench = Bench(args, Path(folder))
        try:
            rows = bench.rows()
        finally:
            bench.close()
    text = page(rows, (before, os.getloadavg()[0]))
    sys.stdout.write(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        from benchmarks.durable import main as imported_main

        imported_main()
