"""A cluster of several Ray nodes on this machine, and drivers that run a chain on it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.durable import Store, open_store
from tests.orchestrator.nodes.driver import Drive

ROOT = Path(__file__).parents[3]
PATIENCE_S = 60.0
PACKAGE = "tests.orchestrator.nodes"


class Cluster:
    """Asks the process that keeps a cluster; see ``host.py``."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.address = ""
        self.ids: dict[str, str] = {}
        """Ray's id of every node that was ever added, by the name of the node."""

    def start(self) -> None:
        """Start a cluster of one head, which runs no steps; another one ends before."""
        self.address = self._ask("start")

    def add(self, name: str, *, cpus: int = 1, ip: str | None = None) -> None:
        self.ids[name] = self._ask("add", name, cpus, ip)

    def kill(self, name: str) -> None:
        self._ask("kill", name)

    def processes(self, name: str) -> list[psutil.Process]:
        return [psutil.Process(pid) for pid in self._ask("processes", name)]

    def keep(self, *names: str) -> None:
        """Have exactly these nodes beside the head."""
        there = self._ask("names")
        if "head" not in there:
            self.start()
            there = []
        for name in {*there} - {"head", *names}:
            self.kill(name)
        for name in names:
            if name not in there:
                self.add(name)

    def name_of(self, node_id: str) -> str:
        return next(name for name, found in self.ids.items() if found == node_id)

    def _ask(self, *request: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the process of the cluster ended at {request}"
        return json.loads(answer)


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    with subprocess.Popen(
        [sys.executable, "-m", f"{PACKAGE}.host"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=_environment(),
        start_new_session=True,
    ) as process:
        yield Cluster(process)


@dataclass(frozen=True, slots=True)
class Line:
    """What a step noted when it ran."""

    step: str
    epoch: int
    attempt: int
    node: str
    pid: int


@dataclass(slots=True)
class Driver:
    process: "subprocess.Popen[str]"
    said: str = ""

    def end(self) -> int:
        """Wait for its end; what it printed is in ``said`` then."""
        self.said, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode

    def kill(self) -> None:
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@dataclass(slots=True)
class Run:
    """The run of a chain in a folder of its own, whoever drives it and wherever."""

    folder: Path
    leaving: ExitStack
    middle: str = "wait_and_write"
    drivers: list[Driver] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return open_store(self._url)

    @property
    def _url(self) -> str:
        return f"file://{self.folder}/store?shared=true"

    def drive(self, cluster: Cluster, **where: str) -> Driver:
        drive = Drive(
            address=cluster.address,
            store=self._url,
            log=str(self.folder / "log"),
            middle=self.middle,
            **where,
        )
        process = subprocess.Popen(
            [sys.executable, "-m", f"{PACKAGE}.driver", json.dumps(asdict(drive))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=_environment(),
        )
        driver = Driver(process)
        self.leaving.callback(driver.kill)
        self.drivers.append(driver)
        return driver

    def started(self, step: str, *, epoch: int = 1, attempt: int = 1) -> Line:
        """Wait until an attempt has noted that it started."""

        def found() -> Line | None:
            for line in self.lines():
                if (line.step, line.epoch, line.attempt) == (step, epoch, attempt):
                    return line
            return None

        try:
            return wait_for(found, f"{step} started in epoch {epoch} as attempt {attempt}")
        except AssertionError as error:
            for driver in self.drivers:
                driver.process.kill()
                error.add_note(
                    f"driver {driver.process.pid} said:\n{driver.process.communicate()[0]}"
                )
            raise

    def go(self, name: str = "go") -> None:
        """Let waiting steps go on."""
        (self.folder / name).touch()

    def lines(self) -> list[Line]:
        log = self.folder / "log"
        words = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [Line(w[0], int(w[1]), int(w[2]), w[3], int(w[4])) for w in words if len(w) == 5]

    def ran(self) -> list[str]:
        return [line.step for line in self.lines()]


def wait_for(look: Callable[[], Any], what: str) -> Any:
    """Look again and again until there is something."""
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE_S:g} s: {what}")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with ExitStack() as leaving:
        yield Run(tmp_path, leaving)


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
