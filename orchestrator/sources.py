"""What a user brings, a model folder or a dataset, as a content digest for the step keys."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

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

    def dataset(self, json_file: Path, images: Path) -> str:
        """Digest of a LLaVA JSON file and of the names, sizes and times of its images' folder.

        Images are not read here: the data stage reads them once, and what later steps
        depend on is the digest of what it wrote.
        """
        if not json_file.is_file():
            raise PreflightError(f"{json_file}: no such file; expected LLaVA-format JSON")
        if not images.is_dir():
            raise PreflightError(f"{images}: no such folder; expected the folder of the images")
        listing = [_listed(path, images) for path in sorted(images.rglob("*")) if path.is_file()]
        listed = hashlib.sha256("\n".join(listing).encode()).hexdigest()
        return hashlib.sha256(f"{self._file(json_file)} {listed}".encode()).hexdigest()

    def save(self) -> None:
        """Write what was learned for the next run."""
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        beside = self._cache.with_suffix(".tmp")
        beside.write_text(json.dumps(self._known, indent=0, sort_keys=True))
        beside.replace(self._cache)

    def _combined(self, files: Iterable[tuple[str, Path]]) -> str:
        lines = [f"{name} {self._file(path)}" for name, path in files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _file(self, path: Path) -> str:
        stat = path.stat()
        identity = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
        if identity not in self._known:
            with path.open("rb") as file:
                self._known[identity] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._known[identity]


def _listed(path: Path, root: Path) -> str:
    stat = path.stat()
    return f"{path.relative_to(root).as_posix()} {stat.st_size} {stat.st_mtime_ns}"
