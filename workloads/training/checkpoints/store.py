"""Training checkpoints: whole or not there, verified by digest, the newest good one wins.

A checkpoint is a folder of files from all ranks and one ``manifest.json``, written last and
create-only, with the size and SHA-256 of every file. What has no manifest was never finished.
"""

import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from workloads.training.checkpoints.manifest import MANIFEST, Manifest, fault_of
from workloads.training.checkpoints.upload import Objects, Upload
from workloads.training.ranks import Ranks


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

    def save(
        self,
        step: int,
        layout: str,
        write: Callable[[Path], None],
        *,
        protected: Collection[int] = (),
    ) -> None:
        """Write down the state after ``step`` optimizer steps, and begin to upload it.

        What was begun before must have been finished.

        Args:
            step: Optimizer steps done.
            layout: See `Engine.layout`.
            write: Puts this rank's files into a folder; ranks choose different names.
            protected: Steps whose checkpoints stay beside the newest ones.
        """

    @property
    def is_uploaded(self) -> bool:
        """Whether `finish` would have nothing to wait for on this rank."""

    def finish(self) -> str | None:
        """Complete the checkpoint that is on its way, if there is one.

        Returns:
            Why it could not be kept, the same text on all ranks; None if all is well.
        """


@dataclass(kw_only=True, slots=True)
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

    _pending: "_Pending | None" = field(default=None, init=False)

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

    def save(
        self,
        step: int,
        layout: str,
        write: Callable[[Path], None],
        *,
        protected: Collection[int] = (),
    ) -> None:
        """Write every rank's files on its own machine and upload them in a thread."""
        assert self._pending is None, "the checkpoint before was not finished"
        name = self.ranks.from_first(self._free_name(step) if self.ranks.is_first else "")
        folder = tempfile.TemporaryDirectory(prefix="checkpoint-", ignore_cleanup_errors=True)
        try:
            write(Path(folder.name))
        except BaseException:
            folder.cleanup()
            raise
        upload = Upload(self.objects, name, folder)
        self._pending = _Pending(upload, step, layout, frozenset(protected))

    @property
    def is_uploaded(self) -> bool:
        """Whether this rank's files are in the store, or nothing is on its way."""
        return self._pending is None or self._pending.upload.is_over

    def finish(self) -> str | None:
        """Write the manifest over all ranks' files, then drop old checkpoints."""
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        everyones = self.ranks.gather(pending.upload.result())
        fault = next((fault for _, fault in everyones if fault is not None), None)
        if fault is None and self.ranks.is_first:
            files = {file: record for part, _ in everyones for file, record in part.items()}
            fault = self._conclude(pending, Manifest(pending.step, pending.layout, files))
        return self.ranks.from_first(fault)

    def _conclude(self, pending: "_Pending", manifest: Manifest) -> str | None:
        try:
            self.objects.create(f"{pending.upload.name}/{MANIFEST}", manifest.to_bytes())
        except Exception as error:  # noqa: BLE001 - all ranks have to hear of it
            return f"{type(error).__name__}: {error}"
        try:
            self._drop_old(pending.protected)
        except Exception as error:  # noqa: BLE001 - the next one tries again
            self.warn(f"old checkpoints could not be removed: {type(error).__name__}: {error}")
        return None

    def _restore_first(
        self, names: list[str], layout: str, load: Callable[[Path], None]
    ) -> int | None:
        steps = (self._restore_one(name, layout, load) for name in names)
        return next((step for step in steps if step is not None), None)

    def _restore_one(self, name: str, layout: str, load: Callable[[Path], None]) -> int | None:
        manifest = self.ranks.from_first(self._manifest(name) if self.ranks.is_first else None)
        if manifest is None:
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

    def _manifest(self, name: str) -> Manifest | None:
        try:
            return Manifest.from_bytes(self.objects.read(f"{name}/{MANIFEST}"))
        except (ValueError, FileNotFoundError) as error:
            self._skip(name, f"its {MANIFEST} {error}")
            return None

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
                fault = fault_of(folder / file, size, sha256)
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
        ending = f"/{MANIFEST}"
        names = [path for path in self.objects.list(self.prefix) if path.endswith(ending)]
        names = [path.removesuffix(ending) for path in names]
        return sorted(names, key=lambda name: (name.rsplit("/")[-1], name), reverse=True)

    def _free_name(self, step: int) -> str:
        """A name that no earlier try of the same step has left anything under."""
        folder = f"{self.prefix}/{self.writer}"
        taken = {path.removeprefix(folder).split("/")[1] for path in self.objects.list(folder)}
        tries = (f"{step:09d}-{number:03d}" for number in range(1, 1000))
        return f"{folder}/{next(name for name in tries if name not in taken)}"

    def _drop_old(self, protected: Collection[int]) -> None:
        """Remove what this writer and its predecessors left, but for the newest finished."""
        finished = self._finished()
        kept = set(finished[: self.keep])
        kept.update(name for name in finished if _step_of(name) in protected)
        ours = {path.rsplit("/", 1)[0] for path in self.objects.list(self.prefix)}
        for name in sorted(ours - kept):
            self._drop(name)

    def _drop(self, name: str) -> None:
        if self._may_drop(name):
            # Without its manifest first, a half-removed checkpoint would look damaged.
            self.objects.delete(f"{name}/{MANIFEST}")
            self.objects.delete(name)

    def _may_drop(self, name: str) -> bool:
        writer = name.removeprefix(f"{self.prefix}/").split("/")[0]
        is_predecessor = bool(self.predecessors) and writer.startswith(self.predecessors)
        return writer == self.writer or (is_predecessor and writer < self.writer)


@dataclass(frozen=True, slots=True)
class _Pending:
    upload: Upload
    step: int
    layout: str
    protected: frozenset[int]


def _step_of(name: str) -> int:
    return int(name.rsplit("/", 1)[-1].split("-")[0])
