"""What is known of a run without opening its steps: what it was to do, and how far it came."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from orchestrator.artifacts.key import JSON, digest
from orchestrator.durable.states import RunState, StepState
from orchestrator.durable.step import Step
from orchestrator.ownership.epochs import epoch_path, is_abandoned, last_epoch, newest_epoch
from orchestrator.store import Store


@dataclass(slots=True)
class StepStatus:
    """Where a step stands."""

    state: StepState = StepState.WAITING
    key: str = ""
    attempt: int = 0
    reasons: tuple[str, ...] = ()
    """Why it had to run."""

    failure: str = ""
    """Its last failure in one line."""

    manifest: str = ""
    """Where in the store the manifest of its result is."""

    started_at: str = ""
    finished_at: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """What a run is to do."""

    steps: Sequence[Step]
    recipe: Mapping[str, JSON]
    """Its resolved values, which make its identity."""

    metadata: Mapping[str, JSON]
    """What else was recorded with them, such as how to start it again."""


@dataclass(slots=True)
class RunStatus:
    """Where a run stands, as of ``updated_at``."""

    run_id: str
    epoch: int
    state: RunState = RunState.RUNNING
    steps: dict[str, StepStatus] = field(default_factory=dict)
    updated_at: str = ""


def run_identity(name: str, recipe: Mapping[str, JSON]) -> str:
    """Name of the run of these resolved values: the same values continue the same run."""
    return f"{name}-{digest('run', recipe)[:10]}"


def write_spec(store: Store, run_id: str, epoch: int, spec: Spec) -> None:
    """Record for an epoch what the run is to do. Settings are left out: they may hold secrets."""
    data = json.dumps({"run_id": run_id, **_fields(spec)}, default=_fields)
    store.overwrite(epoch_path(run_id, epoch, "spec.json"), data.encode())


def write_status(store: Store, status: RunStatus) -> None:
    """Replace the status of an epoch; a driver that lost the run only writes its own epoch's."""
    status.updated_at = now()
    data = json.dumps(status, default=_fields)
    store.overwrite(epoch_path(status.run_id, status.epoch, "status.json"), data.encode())


def read_spec(store: Store, run_id: str) -> dict[str, Any]:
    """Return the recipe and steps of a run as last started; raises FileNotFoundError."""
    path = epoch_path(run_id, newest_epoch(store, run_id), "spec.json")
    return dict(json.loads(store.read(path)))


def read_status(store: Store, run_id: str) -> RunStatus:
    """Return a run's status; one whose driver certainly died is resumable.

    A driver that died before it took the run over leaves it as it was.

    Raises:
        FileNotFoundError: If the store has no such run.
    """
    epoch, newest = last_epoch(store, run_id), newest_epoch(store, run_id)
    if newest > epoch and not is_abandoned(store, run_id, newest):
        return RunStatus(run_id, newest, RunState.PENDING)
    if newest > epoch == 0:
        return RunStatus(run_id, newest, RunState.RESUMABLE)
    if not epoch:
        raise FileNotFoundError(f"store {store.url} has no run {run_id!r}")
    try:
        found = json.loads(store.read(epoch_path(run_id, epoch, "status.json")))
    except FileNotFoundError:
        found = {"run_id": run_id, "epoch": epoch}
    found["state"] = RunState(found.get("state", RunState.RUNNING))
    found["steps"] = {name: _step_status(step) for name, step in found.get("steps", {}).items()}
    status = RunStatus(**found)
    if status.state in (RunState.RUNNING, RunState.WAITING) and is_abandoned(store, run_id, epoch):
        status.state = RunState.RESUMABLE
    return status


def list_runs(store: Store) -> list[str]:
    """Return the ids of all runs in a store, sorted."""
    marks = ("/owner.json", "/announced.json")
    return sorted({path.split("/")[1] for path in store.list("runs") if path.endswith(marks)})


def now() -> str:
    """The time as records hold it: ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _step_status(step: dict[str, object]) -> StepStatus:
    status = StepStatus(**step)  # type: ignore[arg-type]
    status.state, status.reasons = StepState(status.state), tuple(status.reasons)
    return status


def _fields(value: Any) -> dict[str, Any]:  # noqa: ANN401 - dataclasses with slots
    return {name: getattr(value, name) for name in value.__slots__ if name != "settings"}
