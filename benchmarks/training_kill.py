"""What a killed worker costs a training on a local Ray: a row of `benchmarks/training.py`."""

import os
import signal
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import ray

from orchestrator.durable import Artifact, StepContext, open_store
from orchestrator.stages.finetune import finetune
from workloads.models import resolve_model

Event = tuple[int, float, float]
"""Process id, start of the process and time of what happened, in seconds since the epoch."""


def after_a_kill(scratch: Path, shard: Path, rounds: int) -> dict[str, float]:
    """Train ``rounds`` times on two workers and end one; median seconds of what follows."""
    data = scratch / "data"
    data.mkdir()
    (data / "train.arrow").symlink_to(shard)
    folders = {"data": data, "model": Path(resolve_model("digits"))}
    inputs = {
        name: Artifact(path=path, measurement=path, digest=name, key=name)
        for name, path in folders.items()
    }
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    seen: list[dict[str, float]] = []
    for number in range(rounds):
        root = scratch / f"kill-{number}"
        root.mkdir()
        clock = Clock(root)
        running = ray.remote(num_cpus=0)(finetune).remote(step_context(root, inputs, clock))
        seen.append(clock.kill_and_watch())
        ray.get(running)
    ray.shutdown()
    return {name: statistics.median(each[name] for each in seen) for name in seen[0]}


@dataclass
class Clock:
    """A reporter that writes down, from any process, what happened when."""

    folder: Path

    def progress(self, done: int, total: int, unit: str = "steps", note: str = "") -> None:
        """Only the first of a process, after it restored a checkpoint, has no note."""
        if not note.startswith("starting"):
            self._note("restored" if not note else "reported")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Progress comes at the same time."""

    def message(self, text: str) -> None:
        """Nothing to time."""

    def _note(self, what: str) -> None:
        # Field 22 of stat: the process's start in ticks since boot.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        started = booted + ticks / os.sysconf("SC_CLK_TCK")
        with (self.folder / "log").open("a") as log:
            log.write(f"{os.getpid()} {started} {time.time()} {what}\n")

    def kill_and_watch(self) -> dict[str, float]:
        """End rank 0 after its third report; seconds of what follows, by name."""
        victim = self._wait(lambda lines: self._third_report(lines))
        killed_at = time.time()
        os.kill(victim[0], signal.SIGKILL)
        after = [
            self._wait(lambda lines, what=what: self._of_another(lines, victim[0], what))
            for what in ("restored", "reported")
        ]
        (_, started, restored), (_, _, reported) = after
        return {
            "detection, and a new process": started - killed_at,
            "imports, model, checkpoint": restored - started,
            "the first five steps": reported - restored,
            "all together": reported - killed_at,
        }

    def _wait(self, find: Callable[[list[list[str]]], Event | None]) -> Event:
        while True:
            log = self.folder / "log"
            lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
            found = find(lines)
            if found is not None:
                return found
            time.sleep(0.02)

    @staticmethod
    def _third_report(lines: list[list[str]]) -> Event | None:
        reports = [line for line in lines if line[3] == "reported"]
        if len(reports) < 3:
            return None
        pid, started, at, _ = reports[2]
        return int(pid), float(started), float(at)

    @staticmethod
    def _of_another(lines: list[list[str]], victim: int, what: str) -> Event | None:
        for pid, started, at, event in lines:
            if int(pid) != victim and event == what:
                return int(pid), float(started), float(at)
        return None


def step_context(root: Path, inputs: Mapping[str, Artifact], clock: Clock) -> StepContext:
    """What the stage `finetune` is given: 30 steps, a checkpoint every 10."""
    for name in ("out", "measurement"):
        (root / name).mkdir(parents=True)
    training = {"steps": 30, "learning_rate": 1e-3, "trainable": ["projector", "language_model"]}
    return StepContext(
        run_id="run",
        step="finetune",
        key="key",
        epoch=1,
        attempt=1,
        store=open_store(str(root / "store")),
        params={"seed": 0, "training": training},
        settings={"workers": 2, "checkpoint_every": 10},
        inputs=inputs,
        output=root / "out",
        measurement=root / "measurement",
        checkpoint_prefix="checkpoints/key",
        reporter=clock,
    )
