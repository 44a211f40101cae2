"""Folders that travel between machines through the run's store."""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.durable import Store, open_store


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """A place in a store where one process leaves folders for another."""

    store_url: str
    prefix: str

    @property
    def is_needed(self) -> bool:
        """Whether processes of a run may not see each other's files."""
        return self._store.local_path(self.prefix) is None

    def send(self, folder: Path, name: str) -> None:
        """Leave a folder, or one file, under ``name``; what was there before is replaced."""
        store, place = self._store, f"{self.prefix}/{name}"
        store.delete(place)
        if folder.is_file():
            store.upload(folder, f"{place}/{folder.name}")
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            store.upload(file, f"{place}/{file.relative_to(folder).as_posix()}")

    def fetch(self, name: str, folder: Path) -> None:
        """Copy what was left under ``name`` into ``folder``."""
        store, place = self._store, f"{self.prefix}/{name}"
        for path in store.list(place):
            file = folder / path.removeprefix(f"{place}/")
            file.parent.mkdir(parents=True, exist_ok=True)
            store.download(path, file)

    @property
    def _store(self) -> Store:
        return open_store(self.store_url)
