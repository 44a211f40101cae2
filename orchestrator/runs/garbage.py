"""What a store no longer needs: runs beyond those to keep, and results that no kept run has.

A result is shared by all runs that have its key, so it goes when the last of them goes. The
manifest is removed first: a result is then absent, never half there.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.artifacts.manifest import Manifest, read_manifest
from orchestrator.durable import list_runs, read_status
from orchestrator.durable.record import RunStatus
from orchestrator.ownership import RunOwnedError
from orchestrator.ownership.epochs import last_epoch
from orchestrator.runs.control import OVER, check_idle, tags
from orchestrator.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Keep:
    """Which finished runs stay. Those that can be resumed always do."""

    last: int | None = None
    """The newest so many; None for all of them."""

    tagged: bool = True
    """Those with a tag, whatever else is asked for."""

    budget_bytes: int | None = None
    """The newest whose results fit together into so much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Garbage:
    """What can go."""

    runs: tuple[str, ...]
    manifests: tuple[str, ...]
    """Paths of manifests."""

    folders: tuple[str, ...]
    """Of attempts, checkpoints and notes in flight."""

    bytes: int
    """Of the results behind ``manifests``; attempts that were never committed are not counted."""

    kept_bytes: int


def find_garbage(store: Store, keep: Keep) -> Garbage:
    """See what can go; changes nothing."""
    statuses = {run_id: read_status(store, run_id) for run_id in list_runs(store)}
    results = {path: read_manifest(store, path) for path in store.list("manifests")}
    having = {run_id: _results_of(store, run_id, results) for run_id in statuses}
    kept = _kept_runs(store, statuses, having, results, keep)
    needed = set().union(*(having[run_id] for run_id in kept))
    unneeded = sorted(results.keys() - needed)
    roots = {results[path].root for path in needed}
    return Garbage(
        runs=tuple(sorted(statuses.keys() - kept)),
        manifests=tuple(unneeded),
        folders=tuple(_folders(store, statuses, roots)),
        bytes=sum(_size(results[path]) for path in unneeded),
        kept_bytes=sum(_size(results[path]) for path in needed),
    )


def remove_garbage(store: Store, keep: Keep) -> Garbage:
    """Find and remove it.

    Raises:
        RunOwnedError: If a run is being driven, or began meanwhile: it may reuse what would go.
    """
    before = {run_id: last_epoch(store, run_id) for run_id in list_runs(store)}
    for run_id in before:
        check_idle(store, read_status(store, run_id))
    found = find_garbage(store, keep)
    for path in (*(f"runs/{run_id}" for run_id in found.runs), *found.manifests):
        store.delete(path)
    for run_id in list_runs(store):
        if before.get(run_id) != last_epoch(store, run_id):
            raise RunOwnedError(run_id, "a driver that started meanwhile")
    for folder in found.folders:
        store.delete(folder)
    return found


def _results_of(store: Store, run_id: str, results: dict[str, Manifest]) -> set[str]:
    """Manifests that a run used or made; what it made just before it died is in no status."""
    made = {path for path, manifest in results.items() if manifest.values.get("run_id") == run_id}
    return made | (_recorded(store, run_id) & results.keys())


def _recorded(store: Store, run_id: str) -> set[str]:
    """Paths of the manifests that any epoch of a run used or made, as far as it could record."""
    found: set[str] = set()
    for path in store.list(f"runs/{run_id}/epochs"):
        if path.endswith("/status.json"):
            steps = json.loads(store.read(path)).get("steps", {}).values()
            found |= {step["manifest"] for step in steps if step.get("manifest")}
    return found


def _kept_runs(
    store: Store,
    statuses: dict[str, RunStatus],
    having: dict[str, set[str]],
    results: dict[str, Manifest],
    keep: Keep,
) -> set[str]:
    newest = sorted(statuses, key=lambda run_id: statuses[run_id].updated_at, reverse=True)
    finished = [run_id for run_id in newest if statuses[run_id].state in OVER]
    kept = set(statuses) - set(finished)
    kept |= {run_id for run_id in finished if keep.tagged and tags(store, run_id)}
    needed = set().union(*(having[run_id] for run_id in kept))
    for run_id in finished[: keep.last]:
        wanted = needed | having[run_id]
        if keep.budget_bytes is not None and _sizes(results, wanted) > keep.budget_bytes:
            break
        kept.add(run_id)
        needed = wanted
    return kept


def _folders(store: Store, statuses: dict[str, RunStatus], roots: set[str]) -> list[str]:
    """Folders of attempts and checkpoints that belong to no kept result and no unfinished run."""
    unfinished = [run_id for run_id, status in statuses.items() if status.state not in OVER]
    found = {"/".join(path.split("/")[:3]) for path in store.list("artifacts")} - roots
    found |= {"/".join(path.split("/")[:4]) for path in store.list("checkpoints")}
    written = [folder for folder in found if not _is_by(folder, unfinished)]
    return sorted([*written, *([] if unfinished else store.list("inflight"))])


def _is_by(folder: str, runs: Iterable[str]) -> bool:
    writer = folder.rpartition("/")[2]
    return any(writer.startswith(f"{run_id}-e") for run_id in runs)


def _sizes(results: dict[str, Manifest], paths: Iterable[str]) -> int:
    return sum(_size(results[path]) for path in paths)


def _size(manifest: Manifest) -> int:
    return sum(file.size for file in (*manifest.files, *manifest.measurements))
