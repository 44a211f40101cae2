"""Sources: the raw records of a JSON, JSON Lines or Parquet file, read part by part."""

import hashlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workloads.data.files import open_file
from workloads.data.json_stream import JsonStream
from workloads.data.records import location_of
from workloads.errors import DataError

PART_RECORDS = 2048
"""JSON records of a part, which one worker reads; a part of a Parquet file is a row group."""

_ROWS_AT_ONCE = 64
_COLUMNS = ("id", "image", "images", "conversations", "tags")


@dataclass(frozen=True, slots=True)
class Part:
    """Some consecutive records of a source."""

    first: int
    """Number of the first record, from 0."""
    records: int
    start: int
    """Byte that the first record starts at, or number of the row group."""


class Source(Protocol):
    """A file of records that can be read in parts, in any order and on any machine."""

    @property
    def url(self) -> str:
        """The file, as the user named it."""

    def places(self) -> Iterator[tuple[int | None, str | None]]:
        """For every record, `Part.start` if it is the first of a part, and its id if it has one.

        Raises:
            DataError: If the file cannot be read as what its name says.
        """

    def read(self, part: Part) -> Iterator[object]:
        """The raw records of a part."""


def open_source(url: str) -> Source:
    """Choose by the end of the name: ``.parquet``, ``.jsonl``, or a JSON list."""
    suffix = PurePosixPath(url).suffix
    if suffix == ".parquet":
        return ParquetSource(url)
    return JsonSource(url, has_lines=suffix in (".jsonl", ".ndjson"))


def survey(source: Source) -> list[Part]:
    """Divide a source into parts, in memory of 8 bytes a record.

    Raises:
        DataError: If the file cannot be read, holds no record, or uses an id twice.
    """
    starts: list[tuple[int, int]] = []
    hashes = array("Q")
    for number, (start, identity) in enumerate(source.places()):
        if start is not None:
            starts.append((number, start))
        hashes.append(hash_of((identity or f"record-{number}").encode()))
    if not hashes:
        raise DataError(source.url, "", "holds no record; a dataset needs at least one")
    _refuse_repeated_ids(source, np.frombuffer(hashes, np.uint64))
    ends = [number for number, _ in starts[1:]] + [len(hashes)]
    return [Part(first, end - first, at) for (first, at), end in zip(starts, ends, strict=True)]


def hash_of(content: bytes) -> int:
    """64 bits that two contents hardly share: about once in 10^7 sets of a million."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


@dataclass(frozen=True, slots=True)
class JsonSource:
    """A list of records, or a record on each line."""

    url: str
    has_lines: bool

    def places(self) -> Iterator[tuple[int | None, str | None]]:
        """Read the whole file."""
        with open_file(self.url) as file:
            stream = JsonStream(file, self.url)
            found = stream.lines() if self.has_lines else stream.items()
            for number, (start, record) in enumerate(found):
                identity = record.get("id") if isinstance(record, dict) else None
                yield None if number % PART_RECORDS else start, _text_of(identity)

    def read(self, part: Part) -> Iterator[object]:
        """Read on from where the part starts."""
        with open_file(self.url) as file:
            file.seek(part.start)
            values = JsonStream(file, self.url).values()
            for _, record in islice(values, part.records):
                yield record


@dataclass(frozen=True, slots=True)
class ParquetSource:
    """A table with the columns ``id``, ``image`` or ``images``, ``conversations`` and ``tags``.

    An image is a path, bytes, or a struct of both as Hugging Face's datasets have it. What is
    null counts as absent.
    """

    url: str

    def places(self) -> Iterator[tuple[int | None, str | None]]:
        """Read the ids."""
        with self._open() as file:
            has_ids = "id" in file.schema_arrow.names
            for group in range(file.num_row_groups):
                for row, identity in enumerate(_ids_of(file, group, has_ids)):
                    yield None if row else group, _text_of(identity)

    def read(self, part: Part) -> Iterator[object]:
        """Read a row group, some rows at a time."""
        with self._open() as file:
            columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
            for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[part.start], columns=columns):
                for row in batch.to_pylist(maps_as_pydicts="strict"):
                    yield {name: value for name, value in row.items() if value is not None}

    @contextmanager
    def _open(self) -> Iterator[Any]:
        with open_file(self.url) as handle:
            try:
                yield pq.ParquetFile(handle)
            except pa.ArrowInvalid as error:
                reason = f"is not a readable Parquet file ({error}); write it again"
                raise DataError(self.url, "", reason) from error


def _ids_of(file: Any, group: int, has_ids: bool) -> Iterator[object]:  # noqa: ANN401 - untyped
    if not has_ids:
        yield from (None for _ in range(file.metadata.row_group(group).num_rows))
        return
    for batch in file.iter_batches(row_groups=[group], columns=["id"]):
        yield from batch.column(0).to_pylist()


def _text_of(identity: object) -> str | None:
    is_number = isinstance(identity, int) and not isinstance(identity, bool)
    return str(identity) if is_number or isinstance(identity, str) else None


def _refuse_repeated_ids(source: Source, hashes: np.ndarray[Any, np.dtype[np.uint64]]) -> None:
    order = np.argsort(hashes, kind="stable")
    is_same = hashes[order][1:] == hashes[order][:-1]
    if not is_same.any():
        return
    # Sorting is stable, so the smallest second user follows the first one.
    second = int(order[1:][is_same].min())
    first = int(np.flatnonzero(hashes == hashes[second])[0])
    _, identity = next(islice(source.places(), second, None))
    reason = f"id is already used by record {first}"
    raise DataError(source.url, location_of(second, identity), reason)
