"""What is read from a step's committed result, straight from the store."""

import json
from dataclasses import dataclass
from pathlib import PurePosixPath

from orchestrator.artifacts.manifest import Manifest
from orchestrator.store import Store
from orchestrator.tracking.figures import READ


@dataclass(frozen=True)
class StepResult:
    """The small texts and the lineage of one committed result."""

    store: Store
    manifest: Manifest

    def texts(self) -> dict[str, str]:
        """The files named in `READ`, by name; the model beside them is not touched."""
        folders = (("result", self.manifest.files), ("measurement", self.manifest.measurements))
        return {
            PurePosixPath(file.path).name: self.store.read(
                f"{self.manifest.root}/{folder}/{file.path}"
            ).decode()
            for folder, files in folders
            for file in files
            if file.path in READ
        }

    def times(self) -> dict[str, float]:
        """How long the attempt took that was committed."""
        seconds = self.manifest.values.get("seconds")
        return {"seconds": float(seconds)} if isinstance(seconds, int | float) else {}

    def tags(self) -> dict[str, str]:
        """Digests of the step, its result and its inputs; when, where and by which run it was made.

        The run that made a reused result is not the one that shows it.
        """
        key = self.manifest.key
        made = {
            f"gammaray.made.{name}": value if isinstance(value, str) else json.dumps(value)
            for name, value in self.manifest.values.items()
        }
        inputs = {f"gammaray.input.{name}": digest for name, digest in key.inputs.items()}
        return {
            **made,
            **inputs,
            "gammaray.key": key.digest,
            "gammaray.digest": self.manifest.digest,
            "gammaray.root": self.manifest.root,
        }
