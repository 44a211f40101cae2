import errno
import time
from pathlib import Path

import pytest

from orchestrator.chaos import FaultKind, filesystem
from orchestrator.chaos.filesystem import give_orders
from orchestrator.durable.failures import FailureKind, classify
from orchestrator.store import Store, StoreError, open_store, remote


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.01))
    return open_store(f"chaos://{tmp_path}/store")


def test_without_orders_it_is_a_store_like_others(store: Store, tmp_path: Path) -> None:
    store.check_create_only()
    assert store.create("a/b", b"first")
    assert not store.create("a/b", b"second")
    store.overwrite("a/c", b"third")
    (tmp_path / "file").write_bytes(b"fourth")
    store.upload(tmp_path / "file", "a/d")
    store.download("a/d", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == b"fourth"
    assert store.list("a") == ["a/b", "a/c", "a/d"]
    store.delete("a")
    assert store.list("a") == []


def test_an_unavailable_store_says_that_it_may_pass(store: Store, tmp_path: Path) -> None:
    give_orders(tmp_path, FaultKind.UNAVAILABLE, seconds=60.0)
    with pytest.raises(StoreError, match="503 Slow Down") as caught:
        store.read("a/b")
    assert caught.value.error_number == errno.ETIMEDOUT


def test_trouble_ends_by_itself(store: Store, tmp_path: Path) -> None:
    give_orders(tmp_path, FaultKind.UNAVAILABLE, seconds=-1.0)
    assert store.create("a", b"there")


def test_a_full_disk_takes_nothing_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    give_orders(tmp_path, FaultKind.FULL, seconds=60.0)
    with pytest.raises(StoreError) as caught:
        store.create("a/b", b"much")
    assert caught.value.error_number == errno.ENOSPC
    assert not list((tmp_path / "store" / "a").iterdir())


def test_a_slow_store_answers_in_the_end(store: Store, tmp_path: Path) -> None:
    store.create("a", b"there")
    give_orders(tmp_path, FaultKind.SLOW, seconds=60.0)
    begin_s = time.monotonic()
    assert store.read("a") == b"there"
    assert time.monotonic() > begin_s


def test_a_truncated_object_is_trouble_that_passes_in_memory_and_in_a_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("a", b"0123456789")
    give_orders(tmp_path, FaultKind.TRUNCATED, seconds=60.0)
    monkeypatch.setattr(filesystem, "_SHARE_TRUNCATED", 1.0)
    with pytest.raises(StoreError, match="5 of 10 bytes came"):
        store.read("a")
    with pytest.raises(StoreError, match="5 of 10 bytes came") as caught:
        store.download("a", tmp_path / "half")
    assert caught.value.exit_code == 3
    assert classify(caught.value) is FailureKind.TRANSIENT
