"""Files that travel into a store while training goes on."""

from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Protocol


class StoredFile(Protocol):
    """What is known of an uploaded file."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def sha256(self) -> str:
        """Digest in hexadecimal digits."""


class Objects(Protocol):
    """Named objects, such as a durable store's: names are relative and "/"-separated."""

    def create(self, path: str, data: bytes) -> bool:
        """Write a new object, whole or not at all; False if there is one already."""

    def read(self, path: str) -> bytes:
        """Return an object's bytes; raises FileNotFoundError."""

    def list(self, prefix: str) -> list[str]:
        """All object names below a folder, sorted."""

    def delete(self, prefix: str) -> None:
        """Remove an object, or a folder with all in it."""

    def upload(self, local: Path, path: str) -> StoredFile:
        """Keep a file durably; one that lies in place already is not copied."""

    def download(self, path: str, local: Path) -> None:
        """Copy an object to a file; raises FileNotFoundError."""

    def local_path(self, path: str) -> Path | None:
        """Where an object or folder lies on this machine, or None."""


class Upload:
    """A folder on its way; it is removed in the end, at the latest with the process.

    Args:
        objects: Where to.
        name: Folder there.
        folder: Holds files only.
    """

    def __init__(self, objects: Objects, name: str, folder: "TemporaryDirectory[str]") -> None:
        self.name = name
        self._objects, self._folder = objects, folder
        self._stored: dict[str, tuple[int, str]] = {}
        self._fault: str | None = None
        # Nobody waits for it when the process has to end.
        self._thread = Thread(target=self._run, name="checkpoint-upload", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether `result` would not have to wait."""
        return not self._thread.is_alive()

    def result(self) -> tuple[dict[str, tuple[int, str]], str | None]:
        """Wait for the end; return size and SHA-256 of every file, and what went wrong if any."""
        self._thread.join()
        return self._stored, self._fault

    def _run(self) -> None:
        try:
            for file in sorted(Path(self._folder.name).iterdir()):
                record = self._objects.upload(file, f"{self.name}/{file.name}")
                self._stored[file.name] = record.size, record.sha256
        except Exception as error:  # noqa: BLE001 - it is for the training to judge
            self._fault = f"{type(error).__name__}: {error}"
        finally:
            self._folder.cleanup()
