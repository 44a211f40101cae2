"""What a user brings, a model folder or a dataset, as a content digest for the step keys."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from orchestrator.errors import PreflightError


class Fingerprints:
    """Digests of files, remembered by path, size and modification time.

    A 15 GB checkpoint is read once and not again at every ``gammaray run``.

    Args:
        cache: A JSON file; created when missing, ignored when it cannot be read.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        try:
            self._known: dict[str, str] = json.loads(cache.read_text())
        except (OSError, ValueError):
            self._known = {}

    def folder(self, folder: Path) -> str:
        """Digest of the relative paths and contents of every file below ``folder``."""
        if not folder.is_dir():
            raise PreflightError(f"{folder}: no such folder; expected a Hugging Face model folder")
        if not (folder / "config.json").is_file():
            raise PreflightError(
                f"{folder}: has no config.json; expected a Hugging Face model folder"
            )
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return self._combined((path.relative_to(folder).as_posix(), path) for path in files)

    def dataset(self, records: str, images: str) -> str:
        """Digest of a file of records and of the names, sizes and times of its images' folder.

        Images are not read here: the data stage reads them once, and what later steps
        depend on is the digest of what it wrote. Of what lies behind a URL the service's own
        description is taken, such as an object's size and ETag.
        """
        return hashlib.sha256(f"{self._records(records)} {_listing(images)}".encode()).hexdigest()

    def save(self) -> None:
        """Write what was learned for the next run."""
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        beside = self._cache.with_suffix(".tmp")
        beside.write_text(json.dumps(self._known, indent=0, sort_keys=True))
        beside.replace(self._cache)

    def _combined(self, files: Iterable[tuple[str, Path]]) -> str:
        lines = [f"{name} {self._file(path)}" for name, path in files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _records(self, address: str) -> str:
        if _is_url(address):
            fs, path = url_to_fs(address)
            if not fs.isfile(path):
                raise PreflightError(f"{address}: no such file; {_EXPECTED}")
            return hashlib.sha256(_described(fs.info(path)).encode()).hexdigest()
        if not Path(address).is_file():
            raise PreflightError(f"{address}: no such file; {_EXPECTED}")
        return self._file(Path(address))

    def _file(self, path: Path) -> str:
        stat = path.stat()
        identity = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
        if identity not in self._known:
            with path.open("rb") as file:
                self._known[identity] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._known[identity]


_EXPECTED = "expected LLaVA-format JSON, JSON Lines or Parquet"


def absolute(address: str) -> str:
    """A path as every process understands it; a URL as it is."""
    return address if _is_url(address) else str(Path(address).resolve())


def _is_url(address: str) -> bool:
    return "://" in address


def _listing(images: str) -> str:
    """Digest of names and of what changes with contents."""
    if _is_url(images):
        fs, root = url_to_fs(images)
        found = fs.find(root, detail=True)
        if not found:
            raise PreflightError(f"{images}: no file there; expected the folder of the images")
        listing = [f"{path.removeprefix(root)} {_described(found[path])}" for path in sorted(found)]
    else:
        folder = Path(images)
        if not folder.is_dir():
            raise PreflightError(f"{images}: no such folder; expected the folder of the images")
        listing = [_listed(path, folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()


_CHANGING = ("size", "ETag", "etag", "md5Hash", "LastModified", "last_modified", "created")
"""What file systems call that which changes with a file's contents."""


def _described(info: Mapping[str, Any]) -> str:
    return " ".join(str(info[name]) for name in _CHANGING if info.get(name) is not None)


def _listed(path: Path, root: Path) -> str:
    stat = path.stat()
    return f"{path.relative_to(root).as_posix()} {stat.st_size} {stat.st_mtime_ns}"
