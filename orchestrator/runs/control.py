"""What a person does to a run of a store, whether or not its cluster is still there."""

import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.artifacts.manifest import read_manifest
from orchestrator.durable import Artifact, open_artifact, read_status
from orchestrator.durable.errors import StepError
from orchestrator.durable.gates import open_gate
from orchestrator.durable.record import RunStatus, write_status
from orchestrator.durable.states import RunState, StepState
from orchestrator.ownership import Clock, Lease, RunOwnedError, claim
from orchestrator.ownership.epochs import describe_owner, epoch_path, is_abandoned, last_epoch
from orchestrator.store import Store

OVER = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})
"""States of runs that nobody drives and nobody has to resume."""

_STOPPING_S = 60.0
"""How long a driver may take to stop its steps after it was asked to."""


def cancel(
    store: Store,
    run_id: str,
    *,
    lease: Lease | None = None,
    clock: Clock = time,
    tell: Callable[[str], None] = lambda text: None,
) -> RunState:
    """Ask a run's driver to stop, or mark the run where it has none; returns where it then stands.

    Raises:
        FileNotFoundError: If there is no such run.
        RunOwnedError: If the driver lives and does not stop.
    """
    status, lease = read_status(store, run_id), lease or Lease()
    if status.state in OVER:
        return status.state
    if status.state is RunState.PENDING:
        status = _until_taken_over(store, status, clock, tell)
    if not is_abandoned(store, run_id, status.epoch):
        store.create(epoch_path(run_id, status.epoch, "cancel"), b"")
        tell(f"asked {describe_owner(store, run_id, status.epoch)} to stop")
        end_s = clock.monotonic() + lease.beat_s + _STOPPING_S
        while clock.monotonic() < end_s and not is_abandoned(store, run_id, status.epoch):
            clock.sleep(min(lease.beat_s, 0.5))
        status = read_status(store, run_id)
    if status.state not in OVER:
        ownership = claim(store, run_id, lease=lease, clock=clock, tell=tell)
        status.epoch, status.state = ownership.epoch, RunState.CANCELLED
        write_status(store, status)
        ownership.release()
    return status.state


def delete(store: Store, run_id: str) -> None:
    """Forget a run. Results stay for other runs until ``gammaray gc`` finds that none has them.

    Raises:
        FileNotFoundError: If there is no such run.
        RunOwnedError: If somebody drives it.
    """
    check_idle(store, read_status(store, run_id))
    store.delete(f"runs/{run_id}")


def check_idle(store: Store, status: RunStatus) -> None:
    """Raise RunOwnedError if a driver of the run may be alive."""
    if status.state in (RunState.PENDING, RunState.RUNNING, RunState.WAITING):
        raise RunOwnedError(status.run_id, describe_owner(store, status.run_id, status.epoch))


def _until_taken_over(
    store: Store, status: RunStatus, clock: Clock, tell: Callable[[str], None]
) -> RunStatus:
    """Wait for a driver that was started: before it owns the run, nobody can ask it to stop."""
    owner = describe_owner(store, status.run_id, status.epoch)
    tell(f"waiting for {owner}, which was started to drive the run")
    end_s = clock.monotonic() + _STOPPING_S
    while status.state is RunState.PENDING:
        if clock.monotonic() > end_s:
            raise RunOwnedError(status.run_id, owner)
        clock.sleep(0.5)
        status = read_status(store, status.run_id)
    return status


def approve(store: Store, run_id: str, step: str, *, by: str) -> bool:
    """Let a step start that waits for approval; False if somebody had done so.

    Raises:
        FileNotFoundError: If there is no such run.
        StepError: If the step does not wait.
    """
    steps = read_status(store, run_id).steps
    held = [name for name, status in steps.items() if status.state is StepState.HELD]
    if step not in held:
        waiting = f"those that wait: {', '.join(held)}" if held else "no step of this run waits"
        state = steps[step].state if step in steps else "not a step of this run"
        raise StepError(step, f"does not wait for approval (it is {state}); {waiting}")
    return open_gate(store, run_id, steps[step].key, by=by)


def open_result(store: Store, run_id: str, step: str, scratch: Path) -> Artifact:
    """Open what a step of a run made; a remote store's files are copied below ``scratch``.

    Raises:
        FileNotFoundError: If there is no such run.
        StepError: If the step has no result that was kept.
    """
    steps = read_status(store, run_id).steps
    if step not in steps or not steps[step].manifest:
        having = ", ".join(name for name, status in steps.items() if status.manifest)
        raise StepError(step, f"has no result in run {run_id}; those that have: {having or 'none'}")
    return open_artifact(store, read_manifest(store, steps[step].manifest), scratch)


def tag(store: Store, run_id: str, name: str) -> None:
    """Mark a run, for instance to be kept by ``gammaray gc --keep-tagged``."""
    if last_epoch(store, run_id):
        store.create(f"runs/{run_id}/tags/{name}", b"")


def tags(store: Store, run_id: str) -> list[str]:
    """Names that a run was marked with."""
    return [path.rpartition("/")[2] for path in store.list(f"runs/{run_id}/tags")]
