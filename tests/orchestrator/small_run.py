"""The digits recipe with few steps and scenes, driven as a user drives it: by the command line."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.artifacts.manifest import committed_for
from orchestrator.durable import open_store, read_status

OVERRIDES = (
    "data.train_scenes=60",
    "data.eval_scenes=12",
    "data.questions_per_scene=2",
    "align.steps=6",
    "align.checkpoint_every=2",
    "arank.samples=6",
    "finetune.steps=6",
    "finetune.checkpoint_every=2",
    "efficiency.batch_size=4",
    "efficiency.repeats=1",
)
PATIENCE_S = 600.0


def command(store: Path, *overrides: str, verb: str = "run") -> list[str]:
    gammaray = str(Path(sys.executable).with_name("gammaray"))
    return [gammaray, verb, "digits", *OVERRIDES, *overrides, "--store", str(store)]


@contextmanager
def driver(store: Path, *overrides: str, verb: str = "run") -> Iterator["Driver"]:
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command(store, *overrides, verb=verb),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as process:
        try:
            yield Driver(process, store)
        finally:
            process.kill()


class Driver:
    """A ``gammaray run`` in another process."""

    def __init__(self, process: "subprocess.Popen[str]", store: Path) -> None:
        self.process, self._store = process, store
        self.said: list[str] = []

    def wait_for(self, *texts: str) -> bool:
        """Read its lines until one starts with one of ``texts``; False if it ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip())
            if line.startswith(texts):
                return True
        return False

    def wait_for_checkpoint(self) -> None:
        """Wait until a training has committed a checkpoint that was not there before."""
        known = set(self._checkpoints())
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if set(self._checkpoints()) - known:
                return
            time.sleep(0.05)

    def finish(self) -> int:
        self.wait_for("no line starts like this")
        return self.process.wait(PATIENCE_S)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int:
        self.process.send_signal(how)
        return self.process.wait(PATIENCE_S)

    def _checkpoints(self) -> Iterator[Path]:
        return (self._store / "checkpoints").glob("**/manifest.json")


def result_digests(store: Path) -> dict[str, set[str]]:
    """The result digests of every step in a store; one for each key."""
    opened = open_store(str(store))
    run_ids = {path.name for path in (store / "runs").iterdir()}
    steps = {name for run_id in run_ids for name in read_status(opened, run_id).steps}
    return {name: {m.digest for m in committed_for(opened, name)} for name in steps}
