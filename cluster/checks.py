"""What a machine must have before a run is sent to it: each check looks at one thing."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from cluster.errors import ClusterError
from cluster.jobs import JobCluster

MINIMUM_PYTHON = (3, 11)
COMFORTABLE_CPUS = 2
"""The digits recipe trains on two workers."""
COMFORTABLE_MEMORY_GIB = 8.0
"""The digits recipe with Ray, its workers and MLflow stays below this."""
COMFORTABLE_DISK_GIB = 10.0
"""Artifacts and training checkpoints of a few digits runs, and Ray's session files."""

GIB = 1024**3


class Level(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    check: str
    level: Level
    found: str
    fix: str = ""
    """What to do about it; empty when nothing has to be done."""


def check_machine(folder: Path) -> Iterator[Finding]:
    """Look at this machine; ``folder`` is where artifacts would be written."""
    gpus = _gpus()
    yield _python()
    yield _cpus()
    yield _memory()
    yield _disk(folder)
    yield from _packages()
    yield _gpu(gpus)
    yield from _build_tools(Level.WARN if gpus else Level.FAIL)


def check_cluster(address: str, environment: Mapping[str, str]) -> Finding:
    """Try to reach the Ray cluster whose dashboard is at ``address``."""
    try:
        cluster = JobCluster.connect(address, environment)
    except ClusterError as error:
        return Finding("ray cluster", Level.FAIL, address, str(error))
    return Finding("ray cluster", Level.OK, f"{cluster.address} answers")


def _python() -> Finding:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] >= MINIMUM_PYTHON:
        return Finding("python", Level.OK, found)
    return Finding("python", Level.FAIL, found, "install Python 3.11 or newer")


def _cpus() -> Finding:
    cpus = len(os.sched_getaffinity(0))
    if cpus >= COMFORTABLE_CPUS:
        return Finding("cpus", Level.OK, str(cpus))
    fix = "a recipe's workers need a CPU each: lower workers.training, workers.arank"
    return Finding("cpus", Level.WARN, str(cpus), fix)


def _memory() -> Finding:
    limit_gib = min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), _cgroup_limit()) / GIB
    found = f"{limit_gib:.1f} GiB"
    if limit_gib >= COMFORTABLE_MEMORY_GIB:
        return Finding("memory", Level.OK, found)
    fix = f"use a larger machine: the digits recipe is comfortable with {COMFORTABLE_MEMORY_GIB:g}"
    return Finding("memory", Level.WARN, found, fix)


def _cgroup_limit() -> float:
    """Bytes that a container may use; infinity outside of one."""
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):
        return float("inf")


def _disk(folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / GIB
    found = f"{free:.1f} GiB free at {existing}"
    if free >= COMFORTABLE_DISK_GIB:
        return Finding("disk", Level.OK, found)
    fix = f"free some, or keep the store elsewhere: {COMFORTABLE_DISK_GIB:g} GiB are comfortable"
    return Finding("disk", Level.WARN, found, fix)


def _packages() -> Iterator[Finding]:
    """Compare what is installed with what this distribution says it needs."""
    for line in metadata.requires("gammaray") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        yield _package(requirement)


def _package(requirement: Requirement) -> Finding:
    fix = f"pip install -c constraints.txt '{requirement}'"
    try:
        installed = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding(requirement.name, Level.FAIL, "not installed", fix)
    if not requirement.specifier.contains(installed, prereleases=True):
        found = f"{installed}, but {requirement.specifier} is needed"
        return Finding(requirement.name, Level.FAIL, found, fix)
    return Finding(requirement.name, Level.OK, installed)


def _gpus() -> list[str]:
    """Names, memory and driver of the NVIDIA GPUs; empty without any."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in result.stdout.splitlines() if line.strip()]


def _gpu(gpus: list[str]) -> Finding:
    if gpus:
        return Finding("gpu", Level.OK, "; ".join(gpus))
    return Finding("gpu", Level.OK, "none: models run on the CPU")


def _build_tools(when_missing: Level) -> Iterator[Finding]:
    """Look for what DeepSpeed compiles its CPU communication kernel with, at a run's start."""
    beside_python = str(Path(sys.executable).parent)
    header = Path(sysconfig.get_path("include"), "Python.h")
    tools: dict[str, tuple[Callable[[], str | None], str]] = {
        "g++": (lambda: shutil.which("g++") or shutil.which("c++"), "apt-get install g++"),
        "ninja": (
            lambda: shutil.which("ninja") or shutil.which("ninja", path=beside_python),
            "pip install -c constraints.txt ninja",
        ),
        "Python.h": (
            lambda: str(header) if header.is_file() else None,
            "apt-get install python3-dev",
        ),
    }
    for name, (find, fix) in tools.items():
        found = find()
        if found is not None:
            yield Finding(name, Level.OK, found)
        else:
            yield Finding(name, when_missing, "missing: DeepSpeed cannot compile its kernels", fix)
