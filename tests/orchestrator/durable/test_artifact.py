import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.artifacts import ArtifactChangedError
from orchestrator.artifacts.artifact import check_presence
from orchestrator.artifacts.manifest import SCHEMA, commit, committed, read_manifest
from orchestrator.durable import Manifest, Step, StepKey, Store, open_artifact
from orchestrator.durable.attempt import Task, execute
from orchestrator.durable.errors import StepError
from orchestrator.durable.events import EventReporter
from orchestrator.store import StoreError
from tests.orchestrator.durable.fakes import HERE


def task_of(store: Store, tmp_path: Path, function: str = "write", **fields: object) -> Task:
    settings = {"log": str(tmp_path / "log")}
    step = Step(name="align", function=f"{HERE}:{function}", settings=settings)
    task = Task(
        run_id="run",
        epoch=2,
        attempt=1,
        step=step,
        key=StepKey(name="align", version=1, params={"seed": 1}, inputs={}),
        generation=0,
        store=store,
        inputs={},
    )
    return replace(task, **fields)  # type: ignore[arg-type]


def run(task: Task) -> Manifest:
    return execute(task, EventReporter("align", lambda event: None))


def test_a_result_is_committed_with_its_files_and_digests(any_store: Store, tmp_path: Path) -> None:
    manifest = run(task_of(any_store, tmp_path))
    assert committed(any_store, manifest.key) == manifest
    assert [file.path for file in manifest.files] == ["text"]
    assert [file.path for file in manifest.measurements] == ["time"]
    artifact = open_artifact(any_store, manifest, tmp_path / "scratch")
    assert (artifact.path / "text").read_text() == "[('seed', 1)] []"
    assert (artifact.measurement / "time").exists()
    assert artifact.digest == manifest.digest


def test_measurements_do_not_change_the_result_digest(store: Store, tmp_path: Path) -> None:
    first = run(task_of(store, tmp_path))
    second = run(task_of(store, tmp_path, generation=1, epoch=3))
    assert first.measurements != second.measurements
    assert first.digest == second.digest
    assert committed(store, first.key) == second


def test_a_late_commit_changes_nothing_and_adopts_the_winner(
    any_store: Store, tmp_path: Path
) -> None:
    winner = run(task_of(any_store, tmp_path))
    late = task_of(any_store, tmp_path, attempt=2)
    assert run(late) == winner
    assert any_store.list(late.root) == []
    assert committed(any_store, winner.key) == winner


def test_a_failed_attempt_leaves_nothing(any_store: Store, tmp_path: Path) -> None:
    task = task_of(any_store, tmp_path, "fail_once")
    task = replace(task, step=replace(task.step, settings={**task.step.settings, "error": "bug"}))
    with pytest.raises(ZeroDivisionError):
        run(task)
    assert any_store.list("artifacts") == any_store.list("manifests") == []


def test_a_full_disk_at_the_commit_leaves_nothing_committed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    task = task_of(store, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.store.local.os.link", full)
        with pytest.raises(StoreError, match="No space left") as caught:
            run(task)
    assert caught.value.exit_code == 3
    assert committed(store, task.key) is None
    assert run(replace(task, attempt=2)).root.endswith("a002")
    assert store.list(task.root) == [], "what the first attempt left is removed after the commit"


def test_attempts_of_other_runs_and_later_epochs_are_not_touched(
    store: Store, tmp_path: Path
) -> None:
    task = task_of(store, tmp_path)
    folder = f"artifacts/{task.key.digest}"
    for name in ("run-e000001-a007", "run-e000009-a001", "other-e000001-a001"):
        store.create(f"{folder}/{name}/result/half", b"")
    store.create(f"{task.checkpoint_prefix}/run-e000001-a007/state", b"")
    manifest = run(task)
    left = {path.split("/")[2] for path in store.list(folder)}
    assert left == {manifest.root.split("/")[2], "run-e000009-a001", "other-e000001-a001"}
    assert store.list("checkpoints") == []


def test_files_of_an_earlier_generation_stay(store: Store, tmp_path: Path) -> None:
    first = run(task_of(store, tmp_path))
    run(task_of(store, tmp_path, generation=1, epoch=3))
    open_artifact(store, first, tmp_path)


def test_a_link_is_no_result(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a link or a special file: write a copy"):
        run(task_of(store, tmp_path, "link"))


def test_a_function_that_is_not_there_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="has no function no_such"):
        run(task_of(store, tmp_path, "no_such"))


@pytest.mark.parametrize("change", ["longer", "other", None])
def test_a_changed_file_is_named(any_store: Store, tmp_path: Path, change: str | None) -> None:
    manifest = run(task_of(any_store, tmp_path))
    path = f"{manifest.root}/result/text"
    size = manifest.files[0].size
    if change is None:
        any_store.delete(path)
    else:
        any_store.overwrite(path, b"x" * (size if change == "other" else size + 1))
    with pytest.raises(ArtifactChangedError, match=r"step 'align'.*/text") as caught:
        open_artifact(any_store, manifest, tmp_path / "scratch")
    assert caught.value.exit_code == 1
    assert "redo step align" in str(caught.value)


def test_presence_is_checked_without_reading(store: Store, tmp_path: Path) -> None:
    manifest = run(task_of(store, tmp_path))
    check_presence(store, manifest)
    store.overwrite(f"{manifest.root}/result/text", b"short")
    with pytest.raises(ArtifactChangedError, match="5 bytes, committed"):
        check_presence(store, manifest)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"values": {"seconds": 0}}, "does not match its seal"),
        ({"schema": SCHEMA + 1}, f"has schema {SCHEMA + 1}, this version reads {SCHEMA}"),
        ({"files": "x"}, "does not match its seal"),
    ],
)
def test_a_manifest_is_only_believed_whole(
    store: Store, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    manifest = run(task_of(store, tmp_path))
    record = {**manifest.to_json(), **change}
    store.overwrite(manifest.path, json.dumps(record).encode())
    with pytest.raises(StoreError, match=reason):
        read_manifest(store, manifest.path)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"schema": 1'])
def test_a_truncated_manifest_says_what_to_do(store: Store, tmp_path: Path, data: bytes) -> None:
    manifest = run(task_of(store, tmp_path))
    store.overwrite(manifest.path, data)
    with pytest.raises(StoreError, match="is not a manifest: remove it to redo the step"):
        read_manifest(store, manifest.path)


def test_the_first_commit_of_two_wins(any_store: Store, tmp_path: Path) -> None:
    first = run(task_of(any_store, tmp_path))
    second = replace(first, root="artifacts/other")
    assert commit(any_store, second) == first
