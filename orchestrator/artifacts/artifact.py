"""Committed results as a step or a reader finds them: directories of files."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.artifacts.errors import ArtifactChangedError
from orchestrator.artifacts.manifest import Manifest
from orchestrator.store import FileRecord, Store
from orchestrator.store.local import file_record, make_directory, sync

FAILURE = "failure.json"
"""The one result file of a step whose failure was caught."""

_SYNCED: set[Path] = set()
"""Folders whose own names this process has made durable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A committed result on this machine; nothing in it may be changed."""

    path: Path
    """Directory of the result files; for data from outside, the file or directory itself."""

    measurement: Path
    """Directory of the measurement files: times, hosts, reports; outside the digest."""

    digest: str
    """Result digest: of names and contents of the result files, nothing else."""

    key: str
    """Key of the step that made it; "" for data from outside."""

    @property
    def failure(self) -> dict[str, str] | None:
        """How the step failed, ``kind``, ``error_type`` and ``message``, if that was caught."""
        try:
            return dict(json.loads((self.path / FAILURE).read_text()))
        except (FileNotFoundError, NotADirectoryError):
            return None


def open_artifact(store: Store, manifest: Manifest, scratch: Path) -> Artifact:
    """Bring a committed result to this machine and check every byte of it.

    A local store's files are used where they lie; a remote one's are copied below ``scratch``.

    Raises:
        ArtifactChangedError: If a file is missing or not as it was committed.
    """
    local = store.local_path(manifest.root)
    folder = local or scratch / manifest.key.digest / f"{manifest.generation:06d}"
    files = [("result", record) for record in manifest.files]
    files += [("measurement", record) for record in manifest.measurements]
    for part, record in files:
        file = folder / part / record.path
        if local is None:
            _fetch(store, manifest, f"{manifest.root}/{part}/{record.path}", file, record)
        else:
            _check(manifest, file, record)
    return Artifact(
        path=folder / "result",
        measurement=folder / "measurement",
        digest=manifest.digest,
        key=manifest.key.digest,
    )


def read_file(store: Store, manifest: Manifest, name: str) -> bytes:
    """Read one small result file and check it; raises FileNotFoundError if there is none."""
    record = next((record for record in manifest.files if record.path == name), None)
    if record is None:
        raise FileNotFoundError(f"step {manifest.key.name!r} left no {name}")
    data = store.read(f"{manifest.root}/result/{name}")
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise ArtifactChangedError(manifest.key.name, name, f"{len(data)} other bytes")
    return data


def check_presence(store: Store, manifest: Manifest) -> None:
    """Check that a local artifact's files are there with their sizes, without reading them.

    Raises:
        ArtifactChangedError: If one is missing or of another size.
    """
    folder = store.local_path(manifest.root)
    if folder is not None:
        for record in manifest.files:
            _check_size(manifest, f"{folder}/result/{record.path}", record)


def store_files(store: Store, folder: Path, root: str) -> tuple[FileRecord, ...]:
    """Put all files below ``folder`` durably under ``root``; paths are relative to it, sorted.

    Raises:
        ValueError: For links and special files, which have no content of their own.
    """
    start = len(str(folder)) + 1
    found = sorted(path[start:] for path in _files(str(folder)))
    stored = [(name, store.upload(folder / name, f"{root}/{name}")) for name in found]
    return tuple(FileRecord(name, record.size, record.sha256) for name, record in stored)


def sync_names(store: Store, manifest: Manifest) -> None:
    """Make the names durable that lead to the files of a local artifact, from the store's root."""
    folder = store.local_path(manifest.root)
    if folder is None:
        return
    files = [f"result/{file.path}" for file in manifest.files]
    files += [f"measurement/{file.path}" for file in manifest.measurements]
    inner = {file[:end] for file in files for end, sign in enumerate(file) if sign == "/"}
    key, keys, root = folder.parents[:3]
    above = [keys, key] if keys in _SYNCED else [root, keys, key]
    for path in (*above, folder, *(folder / name for name in sorted(inner))):
        sync(path)
    _SYNCED.add(keys)


def _files(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield entry.path
            else:
                reason = "is a link or a special file: write a copy of what it names"
                raise ValueError(f"{entry.path} {reason}")


def _fetch(store: Store, manifest: Manifest, path: str, file: Path, record: FileRecord) -> None:
    """Download and check; once more if it did not arrive whole: parts have no checksum."""
    make_directory(file.parent)
    for is_last in (False, True):
        file.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            store.download(path, file)
        try:
            _check(manifest, file, record)
            break
        except ArtifactChangedError:
            if is_last:
                raise


def _check(manifest: Manifest, file: Path, record: FileRecord) -> None:
    _check_size(manifest, str(file), record)
    sha256 = file_record(file, record.path).sha256
    if sha256 != record.sha256:
        raise ArtifactChangedError(
            manifest.key.name, str(file), f"sha256 {sha256[:12]}, committed {record.sha256[:12]}"
        )


def _check_size(manifest: Manifest, file: str, record: FileRecord) -> None:
    try:
        found = os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        found = None
    if found is None or not stat.S_ISREG(found.st_mode):
        raise ArtifactChangedError(manifest.key.name, file, "it is missing")
    if found.st_size != record.size:
        reason = f"{found.st_size} bytes, committed {record.size}"
        raise ArtifactChangedError(manifest.key.name, file, reason)
