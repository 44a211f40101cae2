"""What a finished checkpoint consists of, and whether its files still are what was written."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
"""Version of the manifest; checkpoints of another one are left alone."""

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a finished checkpoint consists of."""

    step: int
    layout: str
    files: dict[str, tuple[int, str]]
    """File name to size in bytes and SHA-256."""

    def to_bytes(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(
            {"format": FORMAT, "step": self.step, "layout": self.layout, "files": self.files},
            indent=1,
            sort_keys=True,
        ).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """Read it back; raises ValueError with the reason when it cannot be used."""
        try:
            values: dict[str, Any] = json.loads(data)
            if values["format"] != FORMAT:
                raise ValueError(f"has format {values['format']}, this version reads {FORMAT}")
            files = {name: (size, sha256) for name, (size, sha256) in values["files"].items()}
            return cls(values["step"], values["layout"], files)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"is not a checkpoint manifest: {error!r}") from error


def fault_of(file: Path, size: int, sha256: str) -> str | None:
    """What is wrong with a file, or None.

    Raises:
        FileNotFoundError: If there is none.
    """
    found = file.stat().st_size
    if found != size:
        return f"has {found} bytes instead of {size}"
    with file.open("rb") as opened:
        is_same = hashlib.file_digest(opened, "sha256").hexdigest() == sha256
    return None if is_same else "does not have the contents that were written"
