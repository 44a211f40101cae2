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

from orchestrator.durable.errors import StoreError
from orchestrator.durable.store import FileRecord, check_path

_ASIDE = ".aside"
"""Folder of half-written objects: on the same file system, never listed."""

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space, then run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space, then run the same command again",
    errno.EROFS: "the file system is read-only: choose another store",
    errno.EACCES: "permission denied: make it writable for this user, or choose another store",
    errno.EPERM: "not permitted: make it writable for this user, or choose another store",
    errno.ENOTDIR: "a part of it is a file, not a directory: choose another store",
    errno.EEXIST: "there is a file in place of the directory: choose another store",
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

    def create(self, path: str, data: bytes) -> bool:
        """Write aside, then link: linking to an existing name fails on every POSIX system."""
        target = self._path(path)
        with self._writing(path):
            aside = self._aside(data)
            try:
                return self._link(aside, target, data)
            finally:
                aside.unlink(missing_ok=True)

    def read(self, path: str) -> bytes:
        """Return an object's bytes."""
        return self._path(path).read_bytes()

    def overwrite(self, path: str, data: bytes) -> None:
        """Write aside, then rename over what is there."""
        target = self._path(path)
        with self._writing(path):
            make_directory(target.parent)
            self._aside(data).replace(target)
            sync_directory(target.parent)

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return self._path(path).is_file()

    def list(self, prefix: str) -> list[str]:
        """All files below a directory."""
        top = self._path(prefix)
        return sorted(
            Path(folder, name).relative_to(self.root).as_posix()
            for folder, _, names in os.walk(top)
            for name in names
        )

    def delete(self, prefix: str) -> None:
        """Remove a file or a directory."""
        path = self._path(prefix)
        with self._writing(prefix):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def upload(self, local: Path, path: str) -> FileRecord:
        """Copy a file beside and rename it; one that lies in place already is only synced."""
        target = self._path(path)
        with self._writing(path):
            if local.resolve() != target:
                make_directory(target.parent)
                aside = self._aside_path()
                try:
                    shutil.copyfile(local, aside)
                    _sync_file(aside)
                    aside.replace(target)
                finally:
                    aside.unlink(missing_ok=True)
            else:
                _sync_file(target)
            sync_directory(target.parent)
        return file_record(target, path)

    def download(self, path: str, local: Path) -> None:
        """Copy a file out of the store."""
        shutil.copyfile(self._path(path), local)

    def local_path(self, path: str) -> Path:
        """Where it lies."""
        return self._path(path)

    def _path(self, path: str) -> Path:
        return self.root / check_path(self.url, path)

    def _aside_path(self) -> Path:
        folder = self.root / _ASIDE
        make_directory(folder)
        return folder / uuid.uuid4().hex

    def _aside(self, data: bytes) -> Path:
        aside = self._aside_path()
        try:
            with aside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            aside.unlink(missing_ok=True)
            raise
        return aside

    def _link(self, aside: Path, target: Path, data: bytes) -> bool:
        make_directory(target.parent)
        try:
            os.link(aside, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_exclusively(target, data)
        sync_directory(target.parent)
        return True

    @contextmanager
    def _writing(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = _ADVICE.get(error.errno or 0, "")
            raise StoreError(
                self.url, path, f"cannot write: {error}. {advice}".rstrip(" ."), error.errno
            ) from error


def file_record(file: Path, path: str) -> FileRecord:
    """Measure and hash ``file``, to be known as ``path``."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return FileRecord(path, os.fstat(opened.fileno()).st_size, digest)


def make_directory(folder: Path) -> None:
    """Make a directory and its parents so that they outlast a power cut."""
    if folder.is_dir():
        return
    make_directory(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_directory(folder.parent)


def sync_directory(folder: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _create_exclusively(target: Path, data: bytes) -> bool:
    """For file systems without hard links: exclusive, and removed again when not whole."""
    try:
        with target.open("xb") as file:
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                target.unlink(missing_ok=True)
                raise
    except FileExistsError:
        return False
    sync_directory(target.parent)
    return True
