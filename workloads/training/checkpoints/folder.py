"""Named objects in a local folder: what checkpoints need where there is no durable store."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file that was uploaded."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class FolderObjects:
    """Objects below ``root``; each appears whole or not at all."""

    root: Path

    def create(self, path: str, data: bytes) -> bool:
        """Write a new object; False if there is one already."""
        with self._aside(path) as aside:
            aside.write_bytes(data)
            try:
                os.link(aside, self.root / path)
            except FileExistsError:
                return False
        return True

    def read(self, path: str) -> bytes:
        """Return an object's bytes."""
        return (self.root / path).read_bytes()

    def list(self, prefix: str) -> list[str]:
        """All object names below a folder, sorted."""
        files = (file for file in (self.root / prefix).rglob("*") if file.is_file())
        return sorted(file.relative_to(self.root).as_posix() for file in files)

    def delete(self, prefix: str) -> None:
        """Remove an object, or a folder with all in it."""
        place = self.root / prefix
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)

    def upload(self, local: Path, path: str) -> LocalFile:
        """Copy a file."""
        with self._aside(path) as aside:
            shutil.copyfile(local, aside)
            with aside.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            aside.replace(self.root / path)
        return LocalFile((self.root / path).stat().st_size, digest)

    def download(self, path: str, local: Path) -> None:
        """Copy an object to a file."""
        shutil.copyfile(self.root / path, local)

    def local_path(self, path: str) -> Path:
        """Where an object or folder lies."""
        return self.root / path

    @contextmanager
    def _aside(self, path: str) -> Iterator[Path]:
        folder = (self.root / path).parent
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".aside-", dir=self.root) as scratch:
            yield Path(scratch, "file")
