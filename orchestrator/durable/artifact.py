"""Committed results as a step or a reader finds them: directories of files."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A committed result on this machine; nothing in it may be changed."""

    path: Path
    """Directory of the result files; for data from outside, the file or directory itself."""

    measurement: Path
    """Directory of the measurement files: times, hosts, reports. May not exist."""

    digest: str
    """Result digest: of names and contents of the result files, nothing else."""

    key: str
    """Key of the step that made it; "" for data from outside."""
