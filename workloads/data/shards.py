"""Shards: conversations with their image bytes in one memory-mapped Arrow file."""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from workloads.data.images import decode_image
from workloads.data.records import Conversation, Turn
from workloads.errors import DataError

_ROWS_OF_A_BATCH = 256
_BYTES_OF_A_BATCH = 64 << 20
FILE_BYTES = 512 << 20
"""A file of a shard that is as large is the last but for another."""

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "images": pa.list_(pa.binary()),
        "turns": pa.list_(pa.struct({"role": pa.string(), "text": pa.string()})),
        "tags": pa.map_(pa.string(), pa.string()),
    },
    metadata={"gammaray.shard": "1"},
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation with its images in memory."""

    id: str
    images: tuple[Image.Image, ...]
    """In the order of the ``<image>`` marks in ``turns``."""
    turns: tuple[Turn, ...]
    tags: Mapping[str, str]


class Shard(Sequence[Sample]):
    """Samples of one dataset, read from the memory map when they are asked for.

    Args:
        path: A shard file, or a folder with all files ``NAME-00000-of-00003.arrow`` of one.

    Raises:
        DataError: If a file is missing, damaged or not a shard of this version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table = pa.concat_tables([_map_file(file) for file in _files_of(path)])

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        """Read one sample, or several.

        Raises:
            DataError: If an image of it is missing or cannot be decoded.
        """
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in {self.path}")
        return _to_sample(self._table.slice(index % len(self), 1).to_pylist()[0], self.path)

    def ids(self, indices: Iterable[int]) -> list[str]:
        """Ids of samples, whether or not their images can be decoded."""
        column = self._table.column("id")
        return [column[index].as_py() for index in indices]

    def lengths(self) -> NDArray[np.int64]:
        """Images and characters of every sample, ``(samples, 2)``; no image is read."""
        lengths = [
            np.stack([_count(batch["images"]), _characters(batch["turns"])], axis=1)
            for batch in self._table.select(["images", "turns"]).to_batches()
        ]
        return np.concatenate(lengths) if lengths else np.zeros((0, 2), np.int64)

    def __reduce__(self) -> tuple[type["Shard"], tuple[Path]]:
        return Shard, (self.path,)


class PendingRows:
    """Rows that wait until they are enough for a record batch."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._image_bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether more rows would be too many for one batch, or too large."""
        return len(self.rows) >= _ROWS_OF_A_BATCH or self._image_bytes >= _BYTES_OF_A_BATCH

    def add(self, conversation: Conversation, images: Sequence[bytes]) -> None:
        """Add a conversation with the bytes of its images."""
        self._image_bytes += sum(map(len, images))
        self.rows.append(
            {
                "id": conversation.id,
                "images": list(images),
                "turns": [{"role": turn.role, "text": turn.text} for turn in conversation.turns],
                "tags": sorted(conversation.tags.items()),
            }
        )

    def take(self) -> pa.RecordBatch:
        """Return the rows as a batch, and be empty again."""
        batch = pa.RecordBatch.from_pylist(self.rows, schema=SCHEMA)
        self.rows, self._image_bytes = [], 0
        return batch


def write_shard(conversations: Iterable[Conversation], image_root: Path, path: Path) -> None:
    """Write conversations and their image files' bytes into one shard; see `write_batches`.

    Raises:
        DataError: If there is no conversation, or an image cannot be read.
    """
    write_batches(_batches(conversations, image_root), path)


def write_batches(
    batches: Iterable[pa.RecordBatch], path: Path, *, file_bytes: int = FILE_BYTES
) -> None:
    """Write record batches of ``SCHEMA`` as one shard.

    ``path`` becomes a file; or, if there is more than ``file_bytes``, a folder of files
    ``train-00000-of-00003.arrow`` when it is called ``train.arrow``. It appears only when it is
    whole, and the same batches give the same bytes.

    Raises:
        DataError: If there is no batch.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    aside.mkdir()
    try:
        files = _write_files(batches, aside, file_bytes)
        if not files:
            raise DataError(str(path), "", "no conversation to write; a shard needs at least one")
        whole = files[0]
        if len(files) > 1:
            for number, file in enumerate(files):
                name = f"{path.stem}-{number:05d}-of-{len(files):05d}.arrow"
                file.replace(file.with_name(name))
            whole = aside
        if path.is_dir():
            shutil.rmtree(path)
        elif whole.is_dir():
            path.unlink(missing_ok=True)
        whole.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def open_shard(path: Path) -> Shard:
    """Map a shard, a file or a folder of files, into memory; raises as `Shard` does."""
    return Shard(path)


def _write_files(batches: Iterable[pa.RecordBatch], folder: Path, file_bytes: int) -> list[Path]:
    files: list[Path] = []
    waiting = iter(batches)
    batch = next(waiting, None)
    while batch is not None:
        files.append(folder / f"{len(files)}.arrow")
        with files[-1].open("wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            while batch is not None:
                writer.write_batch(batch)
                batch = next(waiting, None)
                if sink.tell() >= file_bytes:
                    break
    return files


def _batches(conversations: Iterable[Conversation], image_root: Path) -> Iterator[pa.RecordBatch]:
    pending = PendingRows()
    for conversation in conversations:
        images = [
            image if isinstance(image, bytes) else _image_bytes(conversation, image_root / image)
            for image in conversation.images
        ]
        pending.add(conversation, images)
        if pending.is_full:
            yield pending.take()
    if pending.rows:
        yield pending.take()


def _image_bytes(conversation: Conversation, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        where = f"image of {conversation.id!r}"
        raise DataError(str(path), where, f"cannot be read ({error.strerror})") from error


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*-of-*.arrow"))
    wanted = int(files[0].stem.rsplit("-", 1)[1]) if files else 1
    if len(files) != wanted:
        reason = f"has {len(files)} of the {wanted} files of a shard; build it again"
        raise DataError(str(path), "", reason)
    return files


def _map_file(path: Path) -> pa.Table:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        reason = f"is not a readable shard ({error}); build it again from its records"
        raise DataError(str(path), "", reason) from error
    if not table.schema.equals(SCHEMA, check_metadata=True):
        reason = "is an Arrow file but no shard of this version; build it again"
        raise DataError(str(path), "", reason)
    return table


def _count(lists: pa.ListArray) -> NDArray[np.int64]:
    return np.asarray(pc.list_value_length(lists), np.int64)


def _characters(turns: pa.ListArray) -> NDArray[np.int64]:
    """Characters of all turns of each row; a record has at least one turn."""
    of_a_turn = pc.utf8_length(pc.struct_field(turns.flatten(), "text"))
    ends = np.cumsum(_count(turns))
    total = np.concatenate([[0], np.cumsum(np.asarray(of_a_turn, np.int64))])
    return np.diff(total[ends], prepend=0)


def _to_sample(row: Mapping[str, Any], path: Path) -> Sample:
    return Sample(
        id=row["id"],
        images=tuple(
            _image(content, number, row["id"], path)
            for number, content in enumerate(row["images"], start=1)
        ),
        turns=tuple(Turn(turn["role"], turn["text"]) for turn in row["turns"]),
        tags=dict(row["tags"]),
    )


def _image(content: bytes, number: int, sample: str, path: Path) -> Image.Image:
    try:
        return decode_image(content)
    except ValueError as error:
        reason = f"image {number} cannot be decoded: {error}"
        raise DataError(str(path), f"sample {sample!r}", reason) from error
