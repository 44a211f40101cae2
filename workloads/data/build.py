"""Build: from the records of a source to what a shard holds, image bytes included."""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from workloads.data.files import ImageFolder
from workloads.data.images import decode_image
from workloads.data.records import Conversation, location_of, parse_record
from workloads.data.shards import PendingRows
from workloads.data.sources import Part, hash_of, open_source, survey
from workloads.errors import DataError

OnBadImage = Literal["stop", "replace"]

_READ_TOGETHER = 32
"""Records whose images are read at once."""

_ADVICE = "restore the file, or drop the record"


@dataclass(slots=True)
class Summary:
    """What a dataset holds, in figures that add up."""

    conversations: int = 0
    text_only: int = 0
    missing_images: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """Conversations by their tag ``kind``."""
    turns: Counter[int] = field(default_factory=Counter)
    """Conversations by their number of turns."""
    image_hashes: "array[int]" = field(default_factory=lambda: array("Q"))

    @property
    def images(self) -> int:
        """Different images: by path, or by contents where a source holds them itself."""
        return len(np.unique(np.array(self.image_hashes, np.uint64)))

    def add(self, other: "Summary") -> None:
        """Add another part's figures."""
        self.conversations += other.conversations
        self.text_only += other.text_only
        self.missing_images += other.missing_images
        self.kinds += other.kinds
        self.turns += other.turns
        self.image_hashes += other.image_hashes

    def count(self, conversation: Conversation, contents: Sequence[bytes]) -> None:
        """Add one conversation and its images' bytes."""
        self.conversations += 1
        self.text_only += not contents
        self.missing_images += sum(not content for content in contents)
        self.kinds[conversation.tags.get("kind", "")] += 1
        self.turns[len(conversation.turns)] += 1
        self.image_hashes.extend(
            hash_of(image.encode() if isinstance(image, str) else image)
            for image in conversation.images
        )


@dataclass(frozen=True, slots=True)
class Build:
    """A source and its images, which any process can read in parts.

    What a part gives depends on the part alone, so that the bytes of a shard are the same
    whoever built how much of it.

    Args:
        source: Path or URL of a file of records, see `open_source`.
        images: Folder or URL that the records' image paths start from.
        on_bad_image: ``stop`` checks every image; ``replace`` checks none, and what is not there
            becomes an empty one, which a training replaces as it does a damaged one.
    """

    source: str
    images: str
    on_bad_image: OnBadImage = "stop"

    def parts(self) -> list[Part]:
        """Divide the source.

        Raises:
            DataError: If it cannot be read, holds no record or uses an id twice.
        """
        return survey(open_source(self.source))

    def read(self, part: Part) -> Iterator[tuple[Conversation, list[bytes]]]:
        """Conversations of a part with the bytes of their images.

        Raises:
            DataError: If a record has another shape; if an image lies outside the folder, or, for
                ``stop``, is missing or cannot be decoded.
        """
        images = _Images(self)
        records = self._records(part)
        while group := list(islice(records, _READ_TOGETHER)):
            images.read(group)
            for record in group:
                yield record.conversation, images.of(record)

    def batches(self, part: Part) -> Iterator[tuple[pa.RecordBatch, Summary]]:
        """Rows of a shard in batches of at most 256 rows and about 64 MiB; raises as `read`."""
        pending, summary = PendingRows(), Summary()
        for conversation, images in self.read(part):
            pending.add(conversation, images)
            summary.count(conversation, images)
            if pending.is_full:
                yield pending.take(), summary
                summary = Summary()
        if pending.rows:
            yield pending.take(), summary

    def _records(self, part: Part) -> "Iterator[_Record]":
        numbered = enumerate(open_source(self.source).read(part), start=part.first)
        for number, raw in numbered:
            yield _Record(self.source, number, parse_record(raw, self.source, number))


@dataclass(frozen=True, slots=True)
class _Record:
    source: str
    number: int
    conversation: Conversation

    def error(self, reason: str) -> DataError:
        return DataError(self.source, location_of(self.number, self.conversation.id), reason)


class _Images:
    """Images of one part, read a group of records at a time and decoded once each."""

    def __init__(self, build: Build) -> None:
        self._folder = ImageFolder(build.images)
        self._is_checking = build.on_bad_image == "stop"
        self._contents: Mapping[str, bytes | None] = {}
        self._decoded: set[str] = set()

    def read(self, group: Sequence[_Record]) -> None:
        names: dict[str, None] = {}
        for record in group:
            for image in record.conversation.images:
                if isinstance(image, str):
                    self._locate(image, record)
                    names[image] = None
        self._contents = self._folder.read(names)

    def of(self, record: _Record) -> list[bytes]:
        return [self._bytes_of(image, record) for image in record.conversation.images]

    def _bytes_of(self, image: str | bytes, record: _Record) -> bytes:
        content = image if isinstance(image, bytes) else self._contents[image]
        if not self._is_checking or image in self._decoded:
            return content or b""
        named = "in the record" if isinstance(image, bytes) else self._locate(image, record)
        if content is None:
            raise record.error(f"image {named} does not exist; {_ADVICE}")
        try:
            decode_image(content)
        except ValueError as error:
            reason = f"image {named} cannot be decoded ({error}); {_ADVICE}"
            raise record.error(reason) from error
        if isinstance(image, str):
            self._decoded.add(image)
        return content

    def _locate(self, image: str, record: _Record) -> str:
        try:
            return self._folder.locate(image)
        except ValueError as error:
            raise record.error(f"image {image!r} {error}; use paths below it") from error


def read_llava(path: Path, image_root: Path) -> list[Conversation]:
    """Read a file of LLaVA records and check every record and every image before returning any.

    Args:
        path: The file, see `open_source`.
        image_root: The folder that the records' image paths start from.

    Returns:
        The conversations in file order, at least one.

    Raises:
        DataError: See `Build`.
    """
    build = Build(str(path), str(image_root))
    return [conversation for part in build.parts() for conversation, _ in build.read(part)]
