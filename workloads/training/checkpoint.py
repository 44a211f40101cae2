"""Training checkpoints: whole or not there, verified by digest, the newest good one wins.

A checkpoint is a folder of files from all ranks and one ``manifest.json``, written last and
create-only, with the size and SHA-256 of every file. What has no manifest was never finished.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from workloads.training.ranks import Ranks

FORMAT = 1
"""Version of the manifest; checkpoints of another one are left alone."""

_MANIFEST = "manifest.json"


class CheckpointStore(Protocol):
    """Where a training keeps its checkpoints; all ranks call every method together."""

    def restore(self, layout: str, load: Callable[[Path], None]) -> int | None:
        """Hand the newest usable checkpoint to ``load``; return its step, or None without one.

        Args:
            layout: What a checkpoint must have been written as, see `Engine.layout`.
            load: Reads this rank's state from a folder that holds the files of all ranks.
        """

    def roll_back(self, step: int, layout: str, load: Callable[[Path], None]) -> int | None:
        """Restore the newest usable checkpoint of at most ``step`` steps, and drop newer ones.

        Args:
            step: Optimizer steps done.
            layout: See `restore`.
            load: See `restore`.

        Returns:
            Its step, or None if there is none; then nothing was dropped.
        """

    def save(self, step: int, layout: str, write: Callable[[Path], None]) -> None:
        """Keep the state after ``step`` optimizer steps.

        Args:
            step: Optimizer steps done.
            layout: See `Engine.layout`.
            write: Puts this rank's files into a folder; ranks choose different names.
        """


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoints:
    """A `CheckpointStore` over named objects.

    Layout: ``{prefix}/{writer}/{step}-{try}/{files of all ranks, manifest.json}``. Everybody
    may read all writers' checkpoints; each removes only its own and its predecessors'.
    """

    objects: Objects
    prefix: str
    writer: str
    """Folder of whoever writes now, such as one attempt of one owner of a run."""

    predecessors: str = ""
    """Writers whose name starts so and sorts before ``writer`` are done for good."""

    ranks: Ranks
    keep: int = 2
    """Finished checkpoints that stay; the one before the last replaces a damaged last one."""

    warn: Callable[[str], None]
    """Takes one line for a person; called on rank 0."""

    def restore(self, layout: str, load: Callable[[Path], None]) -> int | None:
        """Try finished checkpoints from the newest on; warn of those that cannot be used."""
        names = self.ranks.from_first(self._finished() if self.ranks.is_first else [])
        return self._restore_first(names, layout, load)

    def roll_back(self, step: int, layout: str, load: Callable[[Path], None]) -> int | None:
        """Restore one of at most ``step`` steps; nobody shall continue from a newer one."""
        names = self.ranks.from_first(self._finished() if self.ranks.is_first else [])
        older = [name for name in names if _step_of(name) <= step]
        restored = self._restore_first(older, layout, load)
        if restored is not None and self.ranks.is_first:
            for name in set(names).difference(older):
                self._drop(name)
        return restored

    def save(self, step: int, layout: str, write: Callable[[Path], None]) -> None:
        """Write and upload every rank's files, then the manifest, then drop old ones."""
        name = self.ranks.from_first(self._free_name(step) if self.ranks.is_first else "")
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
            write(Path(folder))
            stored = {
                file.name: self.objects.upload(file, f"{name}/{file.name}")
                for file in sorted(Path(folder).iterdir())
            }
        mine = {file: (record.size, record.sha256) for file, record in stored.items()}
        everyones = self.ranks.gather(mine)
        if self.ranks.is_first:
            files = {file: record for part in everyones for file, record in part.items()}
            manifest = Manifest(step, layout, files)
            self.objects.create(f"{name}/{_MANIFEST}", manifest.to_bytes())
            self._drop_old()

    def _restore_first(
        self, names: list[str], layout: str, load: Callable[[Path], None]
    ) -> int | None:
        steps = (self._restore_one(name, layout, load) for name in names)
        return next((step for step in steps if step is not None), None)

    def _restore_one(self, name: str, layout: str, load: Callable[[Path], None]) -> int | None:
        try:
            manifest = Manifest.from_bytes(self.objects.read(f"{name}/{_MANIFEST}"))
        except (ValueError, FileNotFoundError) as error:
            self._skip(name, f"its {_MANIFEST} {error}")
            return None
        if manifest.layout != layout:
            self._skip(name, f"it was written by {manifest.layout}, this is {layout}")
            return None
        with self._local_folder(name) as folder:
            fault = self._fetch(name, manifest, folder)
            fault = next(filter(None, self.ranks.gather(fault)), None)
            if fault is not None:
                self._skip(name, fault)
                return None
            load(folder)
        return manifest.step

    def _skip(self, name: str, reason: str) -> None:
        if self.ranks.is_first:
            self.warn(f"checkpoint {name} is not used: {reason}; trying the one before")

    def _fetch(self, name: str, manifest: Manifest, folder: Path) -> str | None:
        """Bring the files here if need be; return what is wrong with them, or None."""
        is_here = self.objects.local_path(name) is not None
        for file, (size, sha256) in sorted(manifest.files.items()):
            try:
                if not is_here:
                    self.objects.download(f"{name}/{file}", folder / file)
                fault = _fault(folder / file, size, sha256)
            except FileNotFoundError:
                fault = "is missing"
            if fault is not None:
                return f"its file {file} {fault}"
        return None

    @contextmanager
    def _local_folder(self, name: str) -> Iterator[Path]:
        """The checkpoint's own folder when it is on this machine, else an empty one."""
        here = self.objects.local_path(name)
        if here is not None:
            yield here
            return
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
            yield Path(folder)

    def _finished(self) -> list[str]:
        """Names of finished checkpoints, from the newest step to the oldest."""
        ending = f"/{_MANIFEST}"
        names = [path for path in self.objects.list(self.prefix) if path.endswith(ending)]
        names = [path.removesuffix(ending) for path in names]
        return sorted(names, key=lambda name: (name.rsplit("/")[-1], name), reverse=True)

    def _free_name(self, step: int) -> str:
        """A name that no earlier try of the same step has left anything under."""
        folder = f"{self.prefix}/{self.writer}"
        taken = {path.removeprefix(folder).split("/")[1] for path in self.objects.list(folder)}
        tries = (f"{step:09d}-{number:03d}" for number in range(1, 1000))
        return f"{folder}/{next(name for name in tries if name not in taken)}"

    def _drop_old(self) -> None:
        """Remove what this writer and its predecessors left, but for the newest finished."""
        finished = self._finished()
        kept = set(finished[: self.keep])
        ours = {path.rsplit("/", 1)[0] for path in self.objects.list(self.prefix)}
        for name in sorted(ours - kept):
            self._drop(name)

    def _drop(self, name: str) -> None:
        if self._may_drop(name):
            # Without its manifest first, a half-removed checkpoint would look damaged.
            self.objects.delete(f"{name}/{_MANIFEST}")
            self.objects.delete(name)

    def _may_drop(self, name: str) -> bool:
        writer = name.removeprefix(f"{self.prefix}/").split("/")[0]
        is_predecessor = bool(self.predecessors) and writer.startswith(self.predecessors)
        return writer == self.writer or (is_predecessor and writer < self.writer)


def _step_of(name: str) -> int:
    return int(name.rsplit("/", 1)[-1].split("-")[0])


def _fault(file: Path, size: int, sha256: str) -> str | None:
    found = file.stat().st_size
    if found != size:
        return f"has {found} bytes instead of {size}"
    with file.open("rb") as opened:
        is_same = hashlib.file_digest(opened, "sha256").hexdigest() == sha256
    return None if is_same else "does not have the contents that were written"
