"""The JSON documents of a finished run, from wherever its artifacts lie."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.artifacts.manifest import Manifest
from orchestrator.durable import Artifact, Store

Document = Mapping[str, Any]

SOURCES = {
    "dataset": ("data", "dataset.json"),
    "align": ("align", "history.json"),
    "arank": ("arank", "arank.json"),
    "conversion": ("convert", "conversion.json"),
    "finetune_dense": ("finetune-dense", "history.json"),
    "finetune_mod": ("finetune-mod", "history.json"),
    "dense": ("evaluate-dense", "metrics.json"),
    "mod": ("evaluate-mod", "metrics.json"),
    "efficiency": ("efficiency", "efficiency.json"),
    "timing": ("efficiency", "timing.json"),
    "registration": ("register", "registration.json"),
    "decision": ("register", "decision.json"),
}
"""Name of a document to the step and the file that hold it."""


def from_artifacts(artifacts: Mapping[str, Artifact]) -> dict[str, Document]:
    """Read the documents of a step's inputs; those of absent steps and files are absent."""

    def read(step: str, file: str) -> bytes | None:
        if step not in artifacts:
            return None
        folders = (artifacts[step].path, artifacts[step].measurement)
        found = [folder / file for folder in folders if (folder / file).is_file()]
        return found[0].read_bytes() if found else None

    return _documents(read)


def from_store(store: Store, results: Mapping[str, Manifest]) -> dict[str, Document]:
    """Read the documents of a run's results in the store; no model is touched."""

    def read(step: str, file: str) -> bytes | None:
        if step not in results:
            return None
        manifest = results[step]
        parts = {"result": manifest.files, "measurement": manifest.measurements}
        found = [
            f"{manifest.root}/{part}/{file}"
            for part, records in parts.items()
            if any(record.path == file for record in records)
        ]
        return store.read(found[0]) if found else None

    return _documents(read)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def _documents(read: Callable[[str, str], bytes | None]) -> dict[str, Document]:
    contents = {name: read(step, file) for name, (step, file) in SOURCES.items()}
    return {name: json.loads(data) for name, data in contents.items() if data is not None}
