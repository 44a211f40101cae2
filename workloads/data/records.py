"""LLaVA-format records: conversations about images, checked before they are used."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from workloads.errors import DataError

Role = Literal["human", "gpt", "system"]

IMAGE_MARK = "<image>"

_LLAVA_RECORD = (
    '{"id": str, "image": str or list of str, "conversations": '
    '[{"from": "human" | "gpt", "value": str}, ...]}'
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance; every ``<image>`` mark in ``text`` stands for the next image."""

    role: Role
    """``system`` in conversations that are served; datasets have the other two."""
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """One LLaVA record."""

    id: str
    images: tuple[str | bytes, ...]
    """Paths below the dataset's image root, or the files' bytes, in the order of their marks."""
    turns: tuple[Turn, ...]
    """Starts with ``human``, alternates, ends with ``gpt``."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Labels for reports, such as ``{"kind": "row_sum"}``; they never reach the model."""


def parse_record(raw: object, source: str, number: int) -> Conversation:
    """Check a record's shape; images are not looked at.

    ``tags``, an extra field of the record, maps names to short texts and is kept; other extra
    fields are ignored, as LLaVA's own loader does.

    Args:
        raw: What the file holds.
        source: The file.
        number: Of the record in it, from 0; a record without an id is called after it.

    Raises:
        DataError: If the record has another shape, or other than one mark per image.
    """
    return _Record(source, number, raw).parse()


def location_of(number: int, identity: object) -> str:
    """How errors point to a record."""
    return f"record {number} ({identity!r})" if isinstance(identity, str) else f"record {number}"


def write_llava(conversations: list[Conversation], json_path: Path) -> None:
    """Write conversations as LLaVA JSON, one record a line, the same bytes for the same input."""
    lines = [json.dumps(_to_record(item), ensure_ascii=False) for item in conversations]
    json_path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def _to_record(conversation: Conversation) -> dict[str, Any]:
    record: dict[str, Any] = {"id": conversation.id}
    if conversation.images:
        several = len(conversation.images) > 1
        record["image"] = list(conversation.images) if several else conversation.images[0]
    record["conversations"] = [
        {"from": turn.role, "value": turn.text} for turn in conversation.turns
    ]
    if conversation.tags:
        record["tags"] = dict(conversation.tags)
    return record


@dataclass(frozen=True, slots=True)
class _Record:
    """A raw record with its place in the file, for messages that point to it."""

    source: str
    number: int
    raw: object

    def parse(self) -> Conversation:
        record = self._mapping(self.raw, "the record", _LLAVA_RECORD)
        images = tuple(self._images(record))
        turns = tuple(self._turns(record))
        self._check_marks(turns, images)
        identity = record.get("id", f"record-{self.number}")
        if isinstance(identity, int) and not isinstance(identity, bool):
            identity = str(identity)
        return Conversation(
            id=self._text(identity, "'id'"), images=images, turns=turns, tags=self._tags(record)
        )

    def _images(self, record: Mapping[str, object]) -> Iterator[str | bytes]:
        named = record.get("image", record.get("images", []))
        for image in named if isinstance(named, list) else [named]:
            if isinstance(image, dict):  # as Hugging Face's datasets have it
                image = image.get("bytes") or image.get("path")
            yield image if isinstance(image, bytes) else self._text(image, "'image'")

    def _turns(self, record: Mapping[str, object]) -> Iterator[Turn]:
        turns = record.get("conversations")
        if not isinstance(turns, list) or not turns:
            raise self._wrong(
                "'conversations'", "a list with at least one question and answer", turns
            )
        if len(turns) % 2:
            raise self._error(
                f"'conversations' has {len(turns)} turns; a record ends with an answer of 'gpt'"
            )
        for position, raw in enumerate(turns):
            name = f"'conversations'[{position}]"
            turn = self._mapping(raw, name, '{"from": "human" | "gpt", "value": str}')
            role = "gpt" if position % 2 else "human"
            if turn.get("from") != role:
                raise self._wrong(f"{name} 'from'", f"{role!r}", turn.get("from"))
            yield Turn(cast(Role, role), self._text(turn.get("value"), f"{name} 'value'"))

    def _tags(self, record: Mapping[str, object]) -> dict[str, str]:
        tags = self._mapping(record.get("tags", {}), "'tags'", "names with short texts")
        return {name: self._text(tags[name], f"'tags' {name!r}") for name in tags}

    def _check_marks(self, turns: tuple[Turn, ...], images: tuple[str | bytes, ...]) -> None:
        marks = sum(turn.text.count(IMAGE_MARK) for turn in turns)
        if marks == len(images):
            return
        remedy = "name the missing images" if marks > len(images) else "add a mark for each image"
        raise self._error(
            f"{marks} {IMAGE_MARK} mark(s) in the turns but {len(images)} image(s) in 'image'; "
            + remedy
        )

    def _mapping(self, value: object, name: str, expected: str) -> Mapping[str, object]:
        if not isinstance(value, dict):
            raise self._wrong(name, expected, value)
        return value

    def _text(self, value: object, name: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(name, "text that is not blank", value)
        return value

    def _wrong(self, name: str, expected: str, got: object) -> DataError:
        return self._error(f"{name} should be {expected}, got {_kind(got)}")

    def _error(self, reason: str) -> DataError:
        identity = self.raw.get("id") if isinstance(self.raw, dict) else None
        return DataError(self.source, location_of(self.number, identity), reason)


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
