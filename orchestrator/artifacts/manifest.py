"""The record whose creation commits a step's result."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from orchestrator.artifacts.key import JSON, StepKey, digest
from orchestrator.store import FileRecord, Store, StoreError

SCHEMA = 1

_KEY_FIELDS = tuple(each.name for each in fields(StepKey) if each.init)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What one committed attempt left behind."""

    key: StepKey
    generation: int
    """0, and one more each time that a lost effect or a redo made the step run again."""

    root: str
    """Folder in the store that holds ``result/`` and ``measurement/``."""

    files: tuple[FileRecord, ...]
    """Result files, relative to ``result/``, sorted by path."""

    measurements: tuple[FileRecord, ...]
    """Measurement files, relative to ``measurement/``, sorted by path."""

    values: Mapping[str, JSON]
    """When, where and in which run and attempt it was made; outside every digest."""

    is_kept: bool = True
    """False for a result that is not committed; it exists in the driver that made it only."""

    _digest: str = field(default="", init=False, repr=False, compare=False)

    @property
    def digest(self) -> str:
        """Result digest: names and contents of the result files, nothing else.

        For a result that is not kept its key stands in, which is known without making it.
        """
        if not self._digest:
            object.__setattr__(self, "_digest", self._compute())
        return self._digest

    def _compute(self) -> str:
        if not self.is_kept:
            return digest("unkept", [self.key.digest])
        return digest("result", [[file.path, file.size, file.sha256] for file in self.files])

    @property
    def path(self) -> str:
        """Where in the store the manifest itself belongs."""
        return f"{folder_of(self.key)}/{self.generation:06d}.json"

    def to_record(self) -> dict[str, JSON]:
        """All that is stored, but for what guards it."""
        return {
            "key": {name: getattr(self.key, name) for name in _KEY_FIELDS},
            "generation": self.generation,
            "root": self.root,
            "files": [_file(file) for file in self.files],
            "measurements": [_file(file) for file in self.measurements],
            "values": self.values,
            "digest": self.digest,
        }

    def to_json(self) -> dict[str, JSON]:
        """The stored record, sealed with a digest of itself."""
        record = self.to_record() | {"schema": SCHEMA}
        return {**record, "seal": digest("manifest", record)}


def unkept(key: StepKey) -> Manifest:
    """What stands for a result that is not kept, before it is made."""
    return Manifest(
        key=key, generation=0, root="", files=(), measurements=(), values={}, is_kept=False
    )


def read_manifest(store: Store, path: str) -> Manifest:
    """Read and check one manifest.

    Raises:
        FileNotFoundError: If there is none.
        StoreError: If it is damaged, or of a schema that this version does not know.
    """
    try:
        record = json.loads(store.read(path))
        seal, schema = record.pop("seal"), record.pop("schema")
        if schema == SCHEMA and seal == digest("manifest", {**record, "schema": schema}):
            return from_json(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = "is not a manifest: remove it to redo the step"
        raise StoreError(store.url, path, reason) from error
    reason = "does not match its seal: remove it to redo the step"
    if schema != SCHEMA:
        reason = f"has schema {schema}, this version reads {SCHEMA}: use the gammaray that wrote it"
    raise StoreError(store.url, path, reason)


def generations(store: Store, key: StepKey) -> list[Manifest]:
    """All results for ``key``; the last is the one that holds."""
    return [read_manifest(store, path) for path in store.list(folder_of(key))]


def committed(store: Store, key: StepKey) -> Manifest | None:
    """Return the result for ``key`` that holds, if there is one."""
    return next(reversed(generations(store, key)), None)


def committed_for(store: Store, name: str) -> list[Manifest]:
    """All manifests of steps called ``name``, of any key and generation."""
    return [read_manifest(store, path) for path in store.list(f"manifests/{name}")]


def commit(store: Store, manifest: Manifest) -> Manifest:
    """Make ``manifest`` the result of its key and generation, unless there is one already.

    Returns:
        The manifest that holds: this one, or that of an earlier commit, which a late one
        never changes.
    """
    data = json.dumps(manifest.to_json(), sort_keys=True).encode()
    if store.create(manifest.path, data):
        return manifest
    return read_manifest(store, manifest.path)


def folder_of(key: StepKey) -> str:
    """Folder of the manifests for ``key``, one per generation."""
    return f"manifests/{key.name}/{key.digest}"


def from_json(record: Mapping[str, Any]) -> Manifest:
    """Build it from a stored record."""
    return Manifest(
        key=StepKey(**record["key"]),
        generation=record["generation"],
        root=record["root"],
        files=tuple(FileRecord(**file) for file in record["files"]),
        measurements=tuple(FileRecord(**file) for file in record["measurements"]),
        values=record["values"],
    )


def _file(file: FileRecord) -> dict[str, JSON]:
    return {"path": file.path, "size": file.size, "sha256": file.sha256}
