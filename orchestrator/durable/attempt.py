"""One try of a step, from its inputs to the commit, in whatever process runs it."""

import importlib
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.artifacts.artifact import (
    FAILURE,
    Artifact,
    open_artifact,
    store_files,
    sync_names,
)
from orchestrator.artifacts.key import JSON, StepKey
from orchestrator.artifacts.manifest import Manifest, commit, generations
from orchestrator.durable.context import StepContext
from orchestrator.durable.errors import StepError
from orchestrator.durable.events import Reporter
from orchestrator.durable.failures import Failure
from orchestrator.durable.step import External, Step
from orchestrator.store import FileRecord, Store, StoreError, discard
from orchestrator.store.output import kept_output, output_path


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What an executor runs; picklable."""

    run_id: str
    epoch: int
    attempt: int
    step: Step
    key: StepKey
    generation: int
    store: Store
    inputs: Mapping[str, Manifest | External | str]
    """Text names a step that is tried just before this one in the same place."""

    stop_at_s: float | None = None
    """When the run is to stop, in seconds since the epoch."""

    @property
    def follows(self) -> bool:
        """Whether an input is still to be made, so that the key is not known yet."""
        return any(isinstance(source, str) for source in self.inputs.values())

    def after(self, made: Mapping[str, Manifest]) -> "Task | None":
        """The task with what it waited for; None if that is not among what was made."""
        inputs = dict(self.inputs)
        digests = dict(self.key.inputs)
        for name, source in self.inputs.items():
            if isinstance(source, str):
                if source not in made:
                    return None
                inputs[name], digests[name] = made[source], made[source].digest
        return replace(self, key=replace(self.key, inputs=digests), inputs=inputs)

    @property
    def root(self) -> str:
        """Folder in the store that belongs to this attempt alone."""
        return f"artifacts/{self.key.digest}/{self.run_id}-e{self.epoch:06d}-a{self.attempt:03d}"

    @property
    def checkpoint_prefix(self) -> str:
        """Folder in the store for the checkpoints of this key and generation."""
        return f"checkpoints/{self.key.digest}/{self.generation:06d}"


def execute(task: Task, reporter: Reporter) -> Manifest:
    """Run a step's function and commit what it wrote.

    Returns:
        The manifest that holds for the key: this attempt's, or that of one that was faster.

    Raises:
        Exception: Whatever the function raises; then nothing is committed or left behind.
    """
    output = output_path(task.run_id, task.step.name, task.epoch, task.attempt)
    folder, scratch = task.store.local_path(task.root), ""
    with ExitStack() as leaving:
        if folder is None:
            scratch = leaving.enter_context(tempfile.TemporaryDirectory(prefix="gammaray-"))
            folder = Path(scratch, "attempt")
        leaving.enter_context(kept_output(task.store, output))
        try:
            manifest = _make(task, reporter, folder, Path(scratch, "inputs"))
        except BaseException:
            discard(task.store, task.root)
            raise
    if not manifest.is_kept:
        return manifest
    sync_names(task.store, manifest)
    # From here on the attempt's files stay: an interrupted commit may have gone through.
    winner = commit(task.store, manifest)
    _tidy(task, winner)
    return winner


def commit_failure(task: Task, failure: Failure) -> Manifest:
    """Commit a caught failure in the place of a result; returns the manifest that holds."""
    record = {
        "kind": str(failure.kind),
        "error_type": failure.error_type,
        "message": failure.message,
    }
    with tempfile.TemporaryDirectory(prefix="gammaray-") as scratch:
        Path(scratch, FAILURE).write_text(json.dumps(record))
        files = store_files(task.store, Path(scratch), f"{task.root}/result")
    return commit(task.store, _manifest(task, files))


def load_function(step: str, function: str) -> Callable[..., Any]:
    """Import ``module:function``; raises StepError if the module has no such function."""
    module, _, name = function.partition(":")
    found = getattr(importlib.import_module(module), name, None)
    if not callable(found):
        raise StepError(step, f"{module} has no function {name}")
    return found  # type: ignore[no-any-return]


def _make(task: Task, reporter: Reporter, folder: Path, inputs: Path) -> Manifest:
    started_at, start_s, cpu_s = datetime.now(UTC), time.monotonic(), time.process_time()
    output, measurement = folder / "result", folder / "measurement"
    os.makedirs(output)
    os.mkdir(measurement)
    function = load_function(task.step.name, task.step.function)
    function(
        StepContext(
            run_id=task.run_id,
            step=task.step.name,
            key=task.key.digest,
            epoch=task.epoch,
            attempt=task.attempt,
            store=task.store,
            params=task.key.params,
            settings=task.step.settings,
            inputs={name: _open(task, name, inputs) for name in task.inputs},
            output=output,
            measurement=measurement,
            checkpoint_prefix=task.checkpoint_prefix,
            reporter=reporter,
            stop_at_s=task.stop_at_s,
        )
    )
    files = store_files(task.store, output, f"{task.root}/result")
    measurements = store_files(task.store, measurement, f"{task.root}/measurement")
    seconds = time.monotonic() - start_s
    return _manifest(
        task,
        files,
        measurements,
        is_kept=task.step.checkpoint,
        metadata=task.step.metadata,
        host=socket.gethostname(),
        started_at=started_at.isoformat(),
        seconds=round(seconds, 3),
        cpu_seconds=round(time.process_time() - cpu_s, 3),
        reserved_cpu_seconds=round(seconds * task.step.resources.all_cpus, 3),
        gpu_seconds=round(seconds * task.step.resources.all_gpus, 3),
        bytes=sum(file.size for file in (*files, *measurements)),
    )


def _manifest(
    task: Task,
    files: tuple[FileRecord, ...],
    measurements: tuple[FileRecord, ...] = (),
    *,
    is_kept: bool = True,
    **values: JSON,
) -> Manifest:
    made_by: dict[str, JSON] = {"run_id": task.run_id, "epoch": task.epoch, "attempt": task.attempt}
    return Manifest(
        key=task.key,
        generation=task.generation,
        root=task.root,
        files=files,
        measurements=measurements,
        is_kept=is_kept,
        values=made_by | values,
    )


def _open(task: Task, name: str, scratch: Path) -> Artifact:
    source = task.inputs[name]
    assert not isinstance(source, str), f"{source} is still to be made"
    if isinstance(source, Manifest):
        return open_artifact(task.store, source, scratch)
    path = Path(source.path)
    if "://" not in source.path and not path.exists():
        where = f"{path} on {socket.gethostname()}"
        raise StepError(task.step.name, f"input {name!r} is not there: {where}")
    return Artifact(path=path, measurement=path, digest=source.digest, key="")


def _tidy(task: Task, winner: Manifest) -> None:
    """Remove what the commit made useless: checkpoints, and this run's earlier or beaten attempts.

    Only after the commit: before it, a paused process could still wake up and commit what was
    removed. Attempts of other runs are theirs to remove.
    """
    discard(task.store, task.checkpoint_prefix)
    if task.epoch == task.attempt == 1 and winner.root == task.root:
        return
    folder = task.root.rpartition("/")[0]
    with suppress(StoreError, OSError):
        found = {"/".join(path.split("/")[:3]) for path in task.store.list(folder)} - {winner.root}
        kept = {manifest.root for manifest in generations(task.store, task.key)} if found else set()
        for root in found - kept:
            if root.startswith(f"{folder}/{task.run_id}-e") and root <= task.root:
                discard(task.store, root)
