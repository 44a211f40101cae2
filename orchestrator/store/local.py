"""A store in a directory: this machine's, or one that every node mounts."""

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.store.errors import StoreError
from orchestrator.store.store import FileRecord, check_path

_ASIDE = ".aside"
"""Folder of half-written objects: on the same file system, never listed."""

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
        target = self.local_path(path)
        with self._aside(path) as aside:
            # Directories first: what makes the data durable then does the same to their names.
            changed = _make_directories(target.parent)
            if is_durable:
                _write(aside, data)
            else:
                aside.write_bytes(data)
            try:
                os.link(aside, target)
            except FileExistsError:
                return False
            if is_durable:
                for folder in (target.parent, *changed):
                    sync(folder)
            return True

    def read(self, path: str) -> bytes:
        """Return an object's bytes."""
        with self._checked(path, "read"):
            return self.local_path(path).read_bytes()

    def overwrite(self, path: str, data: bytes) -> None:
        """Write aside, then rename over what is there."""
        target = self.local_path(path)
        with self._aside(path) as aside:
            _write(aside, data)
            make_directory(target.parent)
            aside.replace(target)

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return self.local_path(path).is_file()

    def list(self, prefix: str) -> list[str]:
        """All files below a directory."""
        start = len(str(self.root)) + 1
        return sorted(
            f"{folder}/{name}"[start:]
            for folder, _, names in os.walk(self.local_path(prefix))
            for name in names
        )

    def delete(self, prefix: str) -> None:
        """Remove a file or a directory."""
        path = self.local_path(prefix)
        with self._checked(prefix, "remove"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def upload(self, local: Path, path: str) -> FileRecord:
        """Copy a file aside and rename it; of one in place only the content is synced."""
        target = self.local_path(path)
        with self._aside(path) as aside:
            if local.resolve() == target:
                sync(target)
            else:
                make_directory(target.parent)
                shutil.copyfile(local, aside)
                sync(aside)
                aside.replace(target)
                sync(target.parent)
        return file_record(target, path)

    def download(self, path: str, local: Path) -> None:
        """Copy a file out of the store."""
        shutil.copyfile(self.local_path(path), local)

    def local_path(self, path: str) -> Path:
        """Where it lies."""
        return self.root / check_path(self.url, path)

    def check_create_only(self) -> None:
        """Linking to an existing name fails on every POSIX system; without links nothing works."""

    @contextmanager
    def _aside(self, path: str) -> Iterator[Path]:
        """A place to write what shall become ``path``; what is left there is removed."""
        with self._checked(path, "write"):
            try:
                make_directory(self.root / _ASIDE)
            except FileNotFoundError as error:  # such as below /proc
                raise PermissionError(error.errno, "no directory can be made there") from error
            aside = self.root / _ASIDE / uuid.uuid4().hex
            try:
                yield aside
            finally:
                aside.unlink(missing_ok=True)

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


def file_record(file: Path, path: str) -> FileRecord:
    """Measure and hash ``file``, to be known as ``path``."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return FileRecord(path, os.fstat(opened.fileno()).st_size, digest)


def make_directory(folder: Path) -> None:
    """Make a directory and its parents so that they outlast a power cut."""
    for changed in _make_directories(folder):
        sync(changed)


def _make_directories(folder: Path) -> list[Path]:
    """Make a directory and its parents; returns those that have a new name in them."""
    if folder.is_dir():
        return []
    changed = _make_directories(folder.parent)
    folder.mkdir(exist_ok=True)
    return [folder.parent, *changed]


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(file: Path, data: bytes) -> None:
    with file.open("xb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
