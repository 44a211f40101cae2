"""Shards: conversations with their image bytes in one memory-mapped Arrow file."""

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
from PIL import Image

from workloads.data.records import Conversation, Turn
from workloads.errors import DataError

_ROWS_PER_BATCH = 256

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
    """Samples of one shard file, read from the memory map when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._source = pa.memory_map(str(path))
            self._table = pa.ipc.open_file(self._source).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            reason = f"is not a readable shard ({error}); build it again from its records"
            raise DataError(str(path), "", reason) from error
        if not self._table.schema.equals(SCHEMA, check_metadata=True):
            reason = "is an Arrow file but no shard of this version; build it again"
            raise DataError(str(path), "", reason)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in {self.path}")
        return _to_sample(self._table.slice(index % len(self), 1).to_pylist()[0])

    def __reduce__(self) -> tuple[type["Shard"], tuple[Path]]:
        return Shard, (self.path,)


def write_shard(conversations: Iterable[Conversation], image_root: Path, path: Path) -> None:
    """Write conversations and their image files' bytes into one shard.

    The file appears under ``path`` only when it is whole, and the same input gives the same
    bytes.

    Raises:
        DataError: If there is no conversation, or an image cannot be read.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            rows = 0
            for batch in _batches(conversations, image_root):
                writer.write_batch(batch)
                rows += batch.num_rows
        if not rows:
            raise DataError(str(path), "", "no conversation to write; a shard needs at least one")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def open_shard(path: Path) -> Shard:
    """Map a shard into memory; its pages are read when samples are.

    Raises:
        DataError: If the file is missing, damaged or not a shard of this version.
    """
    return Shard(path)


def _batches(conversations: Iterable[Conversation], image_root: Path) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, Any]] = []
    for conversation in conversations:
        rows.append(_to_row(conversation, image_root))
        if len(rows) == _ROWS_PER_BATCH:
            yield pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
            rows = []
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def _to_row(conversation: Conversation, image_root: Path) -> dict[str, Any]:
    return {
        "id": conversation.id,
        "images": [_image_bytes(conversation, image_root / name) for name in conversation.images],
        "turns": [{"role": turn.role, "text": turn.text} for turn in conversation.turns],
        "tags": sorted(conversation.tags.items()),
    }


def _image_bytes(conversation: Conversation, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        where = f"image of {conversation.id!r}"
        raise DataError(str(path), where, f"cannot be read ({error.strerror})") from error


def _to_sample(row: Mapping[str, Any]) -> Sample:
    return Sample(
        id=row["id"],
        images=tuple(Image.open(io.BytesIO(content)) for content in row["images"]),
        turns=tuple(Turn(turn["role"], turn["text"]) for turn in row["turns"]),
        tags=dict(row["tags"]),
    )
