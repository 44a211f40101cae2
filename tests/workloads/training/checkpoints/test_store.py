import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.durable import open_store
from tests.workloads.training.test_loop import (
    DyingBatches,
    KilledError,
    a_config,
    assert_same,
    train_tiny,
)
from tests.workloads.training.tiny import Listener
from workloads.training import Checkpoints, Ranks
from workloads.training.checkpoints.folder import FolderObjects

ROOT = Path(__file__).parents[4]


def corrupt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (corrupt, "does not have the contents"),
        (truncate, r"has \d+ bytes instead of"),
        (Path.unlink, "is missing"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    undisturbed, _ = train_tiny(a_config())
    batches = DyingBatches()
    batches.dies_at = 5
    with pytest.raises(KilledError):
        train_tiny(a_config(), batches=batches, store=tmp_path)
    (newest,) = tmp_path.glob("training/first/000000004-*/torch-engine.pt")
    damage(newest)
    listener = Listener()
    weights, result = train_tiny(a_config(), listener=listener, store=tmp_path, writer="second")
    assert result.resumed_at == 2
    (warning,) = [text for text in listener.messages if "is not used" in text]
    assert "000000004-001" in warning
    assert re.search(rf"torch-engine.pt {reason}", warning)
    assert_same(undisturbed, weights)


def write_state(folder: Path) -> None:
    (folder / "state").write_text("state")


def keep(store: Checkpoints, step: int, layout: str = "x", protected: tuple[int, ...] = ()) -> None:
    store.save(step, layout, write_state, protected=protected)
    assert store.finish() is None


def checkpoints_of_one(folder: Path, warnings: list[str]) -> Checkpoints:
    return Checkpoints(
        objects=open_store(str(folder)),
        prefix="training",
        writer="first",
        ranks=Ranks(),
        warn=warnings.append,
    )


@pytest.mark.parametrize(
    "manifest", [b"", b'{"format": 1, "st', b"[]", b'{"format": 1, "files": []}', b"\xff\xfe{"]
)
def test_a_torn_manifest_is_named_and_the_checkpoint_before_is_used(
    tmp_path: Path, manifest: bytes
) -> None:
    warnings: list[str] = []
    store = checkpoints_of_one(tmp_path, warnings)
    for step in (1, 2):
        keep(store, step)
    (torn,) = tmp_path.glob("training/first/000000002-*/manifest.json")
    torn.write_bytes(manifest)
    assert store.restore("x", lambda folder: None) == 1
    assert "000000002-001 is not used: its manifest.json" in warnings[0]


def test_a_rollback_drops_what_is_newer_and_keeps_what_it_found(tmp_path: Path) -> None:
    store = Checkpoints(
        objects=open_store(str(tmp_path)),
        prefix="training",
        writer="first",
        ranks=Ranks(),
        keep=3,
        warn=print,
    )
    for step in (2, 4, 6):
        keep(store, step)
    assert store.roll_back(1, "x", lambda folder: None) is None
    assert store.roll_back(5, "x", lambda folder: None) == 4
    assert store.restore("x", lambda folder: None) == 4
    left = sorted(path.name for path in tmp_path.glob("training/first/*"))
    assert left == ["000000002-001", "000000004-001"]


def test_an_unfinished_checkpoint_is_ignored(tmp_path: Path) -> None:
    batches = DyingBatches()
    batches.dies_at = 5
    with pytest.raises(KilledError):
        train_tiny(a_config(), batches=batches, store=tmp_path)
    (manifest,) = tmp_path.glob("training/first/000000004-*/manifest.json")
    manifest.unlink()
    _, result = train_tiny(a_config(), store=tmp_path, writer="second")
    assert result.resumed_at == 2


def test_the_last_two_checkpoints_are_kept_and_predecessors_cleaned_up(tmp_path: Path) -> None:
    def checkpoints(writer: str) -> Checkpoints:
        return Checkpoints(
            objects=open_store(str(tmp_path)),
            prefix="training",
            writer=writer,
            predecessors="run-",
            ranks=Ranks(),
            warn=print,
        )

    keep(checkpoints("another"), 1)
    for step in (1, 2, 3):
        keep(checkpoints("run-1"), step)
    keep(checkpoints("run-2"), 4)
    folders = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("training/*/*"))
    assert folders == [
        "training/another/000000001-001",
        "training/run-1/000000003-001",
        "training/run-2/000000004-001",
    ]


def test_a_checkpoint_of_another_engine_or_format_is_left_alone(tmp_path: Path) -> None:
    warnings: list[str] = []
    store = checkpoints_of_one(tmp_path, warnings)
    keep(store, 1, "two ranks")
    keep(store, 2, "one rank")
    (manifest,) = tmp_path.glob("training/first/000000002-*/manifest.json")
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    assert store.restore("one rank", lambda folder: None) is None
    assert "has format 2" in warnings[0]
    assert "was written by two ranks, this is one rank" in warnings[1]


def test_a_protected_checkpoint_stays_beside_the_newest(tmp_path: Path) -> None:
    store = checkpoints_of_one(tmp_path, [])
    for step in (1, 2, 3, 4):
        keep(store, step, protected=(1,))
    left = sorted(path.name[:9] for path in tmp_path.glob("training/first/*"))
    assert left == ["000000001", "000000003", "000000004"]


class FullDisk(FolderObjects):
    """A place that takes nothing."""

    def upload(self, local: Path, path: str) -> Any:
        raise OSError(28, "No space left on device")


def test_a_checkpoint_that_cannot_be_kept_is_told_and_the_one_before_stays(tmp_path: Path) -> None:
    store = checkpoints_of_one(tmp_path, [])
    keep(store, 1)
    store.objects = FullDisk(tmp_path)
    store.save(2, "x", write_state)
    fault = store.finish()
    assert fault is not None
    assert "No space left" in fault
    assert store.finish() is None
    assert store.restore("x", lambda folder: None) == 1


def test_an_upload_leaves_no_file_on_the_worker(tmp_path: Path) -> None:
    store = checkpoints_of_one(tmp_path, [])
    written: list[Path] = []

    def write(folder: Path) -> None:
        written.append(folder)
        write_state(folder)

    store.save(1, "x", write)
    store.finish()
    assert not written[0].exists()


def test_a_local_folder_keeps_checkpoints_as_a_store_does(tmp_path: Path) -> None:
    store = Checkpoints(
        objects=FolderObjects(tmp_path), prefix="c", writer="w", ranks=Ranks(), warn=print
    )
    for step in (1, 2, 3):
        keep(store, step)
    seen: list[str] = []
    assert store.restore("x", lambda folder: seen.append((folder / "state").read_text())) == 3
    assert seen == ["state"]
    assert not store.objects.create("c/w/000000003-001/manifest.json", b"another")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


DIES_WHILE_UPLOADING = """
import time
from pathlib import Path
from workloads.training import Checkpoints, Ranks
from workloads.training.checkpoints.folder import FolderObjects

class Slow(FolderObjects):
    def upload(self, local, path):
        time.sleep(60)

store = Checkpoints(
    objects=Slow(Path("store")), prefix="training", writer="first", ranks=Ranks(), warn=print
)
store.save(1, "x", lambda folder: (folder / "state").write_text("state") and None)
raise SystemExit("the training fails")
"""


def test_a_process_that_fails_during_an_upload_leaves_no_file_either(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    failed = subprocess.run(
        [sys.executable, "-c", DIES_WHILE_UPLOADING],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert failed.stderr.strip().endswith("the training fails")
    assert not list(temporary.glob("checkpoint-*"))
