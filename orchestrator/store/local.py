"""A store in a directory: this machine's, or one that every node mounts."""

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.store.errors import StoreError
from orchestrator.store.store import FileRecord, check_path

_ASIDE = ".aside"
"""Folder of half-written objects: on the same file system, never listed."""

_LARGE = 8 << 20
"""Bytes from which on a file is hashed while the disk takes it in."""

_ADVICE = {
    errno.ENOSPC: "free some space, then run the same command again",
    errno.EDQUOT: "free some space, then run the same command again",
    errno.ENOTSUP: "its file system has no hard links: choose another store",
}


@dataclass(frozen=True, slots=True)
class LocalStore:
    """Objects are files; a new one is linked into place, so it is there whole or not at all."""

    root: Path
    is_shared: bool = False

    @property
    def url(self) -> str:
        """The directory as ``open_store`` takes it."""
        return self.root.as_uri() + ("?shared=true" if self.is_shared else "")

    def create(self, path: str, data: bytes, *, is_durable: bool = True) -> bool:
        """Write aside, then link: linking to an existing name fails on every POSIX system."""
        target = self._place(path)
        with self._aside(path) as aside:
            # Directories first: what makes the data durable then does the same to their names.
            changed = _make_directories(os.path.dirname(target))
            _write(aside, data, is_durable=is_durable)
            try:
                os.link(aside, target)
            except FileExistsError:
                return False
            if is_durable:
                for folder in (os.path.dirname(target), *changed):
                    sync(folder)
            return True

    def read(self, path: str) -> bytes:
        """Return an object's bytes."""
        place = self._place(path)
        with self._checked(path, "read"), open(place, "rb", buffering=0) as opened:
            return opened.readall()

    def overwrite(self, path: str, data: bytes) -> None:
        """Write aside, then rename over what is there."""
        target = self._place(path)
        with self._aside(path) as aside:
            _write(aside, data, is_durable=True)
            make_directory(os.path.dirname(target))
            os.replace(aside, target)

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return os.path.isfile(self._place(path))

    def list(self, prefix: str) -> list[str]:
        """All files below a directory."""
        start = len(str(self.root)) + 1
        return sorted(file[start:] for file in _files(self._place(prefix)))

    def delete(self, prefix: str) -> None:
        """Remove a file or a directory."""
        place = self._place(prefix)
        with self._checked(prefix, "remove"), suppress(FileNotFoundError):
            try:
                os.unlink(place)
            except (IsADirectoryError, PermissionError):
                shutil.rmtree(place)

    def upload(self, local: Path, path: str) -> FileRecord:
        """Copy a file aside and rename it; of one in place only the content is synced."""
        target = self._place(path)
        if os.fspath(local) == target or str(local.resolve()) == target:
            with self._checked(path, "write"):
                return file_record(target, path, is_synced=True)
        with self._aside(path) as aside:
            make_directory(os.path.dirname(target))
            shutil.copyfile(local, aside)
            record = file_record(aside, path, is_synced=True)
            os.replace(aside, target)
            sync(os.path.dirname(target))
            return record

    def download(self, path: str, local: Path) -> None:
        """Copy a file out of the store."""
        shutil.copyfile(self._place(path), local)

    def local_path(self, path: str) -> Path:
        """Where it lies."""
        return Path(self._place(path))

    def check_create_only(self) -> None:
        """Linking to an existing name fails on every POSIX system; without links nothing works."""

    def _place(self, path: str) -> str:
        return f"{self.root}/{check_path(self, path)}"

    @contextmanager
    def _aside(self, path: str) -> Iterator[str]:
        """A place to write what shall become ``path``; what is left there is removed."""
        folder = f"{self.root}/{_ASIDE}"
        with self._checked(path, "write"):
            try:
                make_directory(folder)
            except FileNotFoundError as error:  # such as below /proc
                raise PermissionError(error.errno, "no directory can be made there") from error
            aside = f"{folder}/{uuid.uuid4().hex}"
            try:
                yield aside
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(aside)

    @contextmanager
    def _checked(self, path: str, verb: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            number = error.errno or 0
            advice = _ADVICE.get(number, "make it usable for this user, or choose another store")
            reason = f"cannot {verb}: {error.strerror or error}: {advice}"
            raise StoreError(self.url, path, reason, number) from error


def file_record(file: str | Path, path: str, *, is_synced: bool = False) -> FileRecord:
    """Measure and hash ``file``, to be known as ``path``; on request, make it durable meanwhile."""
    with open(file, "rb", buffering=0) as opened:
        size = os.fstat(opened.fileno()).st_size
        if size < _LARGE:
            sha256 = hashlib.sha256(opened.readall())
            if is_synced:
                os.fsync(opened.fileno())
        else:
            with ThreadPoolExecutor(1) as pool:
                synced = pool.submit(os.fsync, opened.fileno()) if is_synced else None
                sha256 = hashlib.file_digest(opened, "sha256")
            if synced is not None:
                synced.result()
        return FileRecord(path, size, sha256.hexdigest())


def make_directory(folder: str | Path) -> None:
    """Make a directory and its parents so that they outlast a power cut."""
    if not os.path.isdir(folder):
        for changed in _make_directories(os.fspath(folder)):
            sync(changed)


def _make_directories(folder: str) -> list[str]:
    """Make a directory and its parents; returns those that have a new name in them."""
    parent = os.path.dirname(folder)
    try:
        os.mkdir(folder)
    except FileExistsError:
        return []
    except FileNotFoundError:
        if parent == folder:
            raise
        changed = _make_directories(parent)
        with suppress(FileExistsError):  # another process was as quick
            os.mkdir(folder)
        return [parent, *changed]
    return [parent]


def sync(path: str | Path) -> None:
    """Make the content of a file, or the names in a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(folder: str) -> Iterator[str]:
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            else:
                yield entry.path


def _write(file: str, data: bytes, *, is_durable: bool) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        if is_durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
