"""What a run left behind, and whether a disturbed one left the same."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.artifacts.manifest import committed_for
from orchestrator.chaos.processes import marked
from orchestrator.durable import Store, read_status
from orchestrator.durable.events import BY_TIME

GRACE_S = 240.0
"""How long processes may take to notice that their driver is gone: Ray Train's agents, minutes."""


@dataclass(frozen=True, slots=True)
class Remains:
    """What is there when a run has ended."""

    digests: Mapping[str, tuple[str, ...]]
    """Step to the digests of its results: one, unless something was done twice."""
    runs: Mapping[str, int]
    """How many MLflow runs have each name and status."""
    points: Mapping[str, int]
    """How many points MLflow has of each run, metric and step."""
    versions: Mapping[str, int]
    """How many versions each registered model has."""
    processes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """Temporary files."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Differences of a disturbed run from the undisturbed one; none is a pass."""

    differences: tuple[str, ...]

    @classmethod
    def on(cls, disturbed: Remains, undisturbed: Remains) -> "Verdict":
        """Compare what two runs of one recipe left."""
        differences: list[str] = []
        for what in ("digests", "runs", "points", "versions"):
            found, expected = getattr(disturbed, what), getattr(undisturbed, what)
            for name in sorted({*found, *expected}):
                if found.get(name) != expected.get(name):
                    seen, wanted = found.get(name, "none"), expected.get(name, "none")
                    differences.append(f"{what}: {name} has {seen}, undisturbed {wanted}")
        differences += [f"process left: {text}" for text in disturbed.processes]
        differences += [f"temporary file left: {text}" for text in disturbed.files]
        return cls(tuple(differences))


def look(store: Store, run_id: str, tracking_uri: str) -> Remains:
    """Read what a finished run has committed and what MLflow was told of it."""
    steps = read_status(store, run_id).steps
    digests = {step: tuple(sorted(m.digest for m in committed_for(store, step))) for step in steps}
    return Remains(digests, *_tracked(tracking_uri))


def leftovers(token: str, folders: Mapping[str, Path]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Processes of the arena that do not end by themselves, and temporary files.

    Args:
        token: Of the arena.
        folders: Where temporary files of the run would be, by a name for them.
    """
    deadline = time.monotonic() + GRACE_S
    while (left := marked(token)) and time.monotonic() < deadline:
        time.sleep(1.0)
    processes = tuple(f"{process.pid} {process.name()}" for process in left)
    files = tuple(
        f"{name}/{path.relative_to(folder)}"
        for name, folder in folders.items()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and _is_temporary(name, path)
    )
    return processes, files


def _is_temporary(name: str, path: Path) -> bool:
    """In the temporary folder anything but Ray's sessions, in the store what was written aside."""
    if name == "tmp":
        return "ray" not in path.parts
    return path.name.startswith(".") or path.suffix == ".tmp"


def _tracked(uri: str) -> tuple[Counter[str], Counter[str], Counter[str]]:
    from mlflow import MlflowClient

    client = MlflowClient(uri, uri)
    runs, points, versions = Counter[str](), Counter[str](), Counter[str]()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for run in _all(lambda token: client.search_runs(experiments, page_token=token)):
        name = run.info.run_name
        runs[f"{name} {run.info.status}"] += 1
        # How busy a machine was, and when, is never the same twice.
        for metric in (each for each in run.data.metrics if not each.startswith(BY_TIME)):
            for point in client.get_metric_history(run.info.run_id, metric):
                points[f"{name} {metric} {point.step}"] += 1
    for version in _all(lambda token: client.search_model_versions(page_token=token)):
        versions[version.name] += 1
    return runs, points, versions


def _all(page_of: Callable[[str | None], Any]) -> list[Any]:
    """What is on all pages, which are lists with the token of the next one."""
    found: list[Any] = []
    token = None
    while True:
        page = page_of(token)
        found += page
        token = page.token
        if not token:
            return found
