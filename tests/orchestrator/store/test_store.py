import errno
import os
import pickle
import threading
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from orchestrator.durable import Store, open_store
from orchestrator.store import StoreError
from orchestrator.store.store import FORMAT


def test_what_is_created_can_be_read_and_not_created_again(any_store: Store) -> None:
    assert any_store.create("a/b", b"first")
    assert not any_store.create("a/b", b"second")
    assert any_store.read("a/b") == b"first"
    assert any_store.exists("a/b")
    assert not any_store.exists("a")


def test_overwriting_replaces(any_store: Store) -> None:
    any_store.overwrite("beat", b"1")
    any_store.overwrite("beat", b"2")
    assert any_store.read("beat") == b"2"


def test_reading_nothing_is_file_not_found(any_store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        any_store.read("absent")


def test_lists_a_folder_and_not_its_namesakes(any_store: Store) -> None:
    for path in ("runs/b/2", "runs/b/1", "runs/a", "runs-other/c"):
        any_store.create(path, b"")
    assert any_store.list("runs") == ["runs/a", "runs/b/1", "runs/b/2"]
    assert any_store.list("run") == []


def test_deletes_a_folder_and_not_its_namesakes(any_store: Store) -> None:
    for path in ("x/1", "x/2/3", "xy/4"):
        any_store.create(path, b"")
    any_store.delete("x")
    any_store.delete("x")
    assert any_store.list("x") == []
    assert any_store.list("xy") == ["xy/4"]


def test_files_go_up_and_come_down(any_store: Store, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"model")
    record = any_store.upload(source, "checkpoints/model")
    assert (record.path, record.size) == ("checkpoints/model", 5)
    assert record.sha256.startswith("9372c470eeadd5ec")
    any_store.download("checkpoints/model", target)
    assert target.read_bytes() == b"model"


def test_a_local_store_shows_where_its_files_lie(store: Store) -> None:
    store.create("a/b", b"x")
    place = store.local_path("a")
    assert place is not None
    assert (place / "b").read_bytes() == b"x"
    assert open_store("memory://m").local_path("a") is None


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/.", "a\\b"])
def test_names_that_escape_are_refused(any_store: Store, path: str) -> None:
    with pytest.raises(StoreError, match="escapes the store"):
        any_store.create(path, b"")
    with pytest.raises(StoreError, match="escapes the store"):
        any_store.delete(path)


def test_stores_travel_between_processes(any_store: Store) -> None:
    any_store.create("a", b"x")
    again = pickle.loads(pickle.dumps(any_store))
    assert again.read("a") == b"x"
    assert open_store(again.url).read("a") == b"x"


@pytest.mark.parametrize("any_store", ["local", "s3"], indirect=True)
def test_one_of_many_writers_creates(any_store: Store) -> None:
    won: list[int] = []
    start = threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        if any_store.create("epoch", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [b"%d" % number for number in won] == [any_store.read("epoch")]


def test_nothing_half_written_is_left(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("orchestrator.store.local.os.fsync", full)
    for write in (store.create, store.overwrite):
        with pytest.raises(StoreError, match=r"No space left.*free some space") as caught:
            write("object", b"data")
        assert caught.value.exit_code == 3
    assert not store.exists("object")
    place = store.local_path(".aside")
    assert place is not None
    assert list(place.iterdir()) == []


def test_a_place_that_cannot_be_a_store_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"Not a directory.*choose another store") as caught:
        open_store(str(tmp_path / "file" / "store"))
    assert caught.value.exit_code == 2


def test_a_read_only_place_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("orchestrator.store.local.os.mkdir", refuse)
    with pytest.raises(StoreError, match="Permission denied: make it usable"):
        open_store(str(tmp_path / "store"))


def test_a_store_of_a_newer_format_is_refused(any_store: Store) -> None:
    any_store.overwrite("format.json", b'{"format": %d}' % (FORMAT + 1))
    with pytest.raises(StoreError, match=rf"format {FORMAT + 1}, this version reads {FORMAT}"):
        open_store(any_store.url)
    any_store.overwrite("format.json", b"<html>")
    with pytest.raises(StoreError, match="not a gammaray store"):
        open_store(any_store.url)


def test_a_shared_directory_is_marked_in_its_url(tmp_path: Path) -> None:
    store = open_store(f"{tmp_path.as_uri()}?shared=true")
    assert store.is_shared
    assert open_store(store.url).is_shared
    assert not open_store(str(tmp_path)).is_shared


def test_a_file_system_without_create_only_writes_is_refused() -> None:
    class Racy(MemoryFileSystem):  # type: ignore[misc]
        protocol = "racy"
        pipe_file = fsspec.AbstractFileSystem.pipe_file

    fsspec.register_implementation("racy", Racy, clobber=True)
    with pytest.raises(StoreError, match="cannot create an object only if it is absent"):
        open_store("racy://bucket")


def test_an_unknown_kind_of_store_says_so() -> None:
    with pytest.raises(StoreError, match="cannot open it: Protocol not known: nowhere"):
        open_store("nowhere://bucket")


def test_a_place_where_no_directory_can_be_made_is_refused() -> None:
    with pytest.raises(StoreError, match="no directory can be made there"):
        open_store("/proc/gammaray-store")


def test_two_processes_may_make_a_store_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def beside_another(path: str, *mode: int) -> None:
        mkdir(path, *mode)
        mkdir(path, *mode)

    monkeypatch.setattr("orchestrator.store.local.os.mkdir", beside_another)
    assert open_store(str(tmp_path / "deep" / "store")).create("a", b"first")
