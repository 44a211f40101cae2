"""LLaVA-format records: conversations about images, read from JSON and checked before use."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from PIL import Image

from workloads.errors import DataError

Role = Literal["human", "gpt"]

IMAGE_MARK = "<image>"

_LLAVA_RECORD = (
    '{"id": str, "image": str or list of str, "conversations": '
    '[{"from": "human" | "gpt", "value": str}, ...]}'
)
_IMAGE_ADVICE = "restore the file, or drop the record"


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance; every ``<image>`` mark in ``text`` stands for the next image."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """One LLaVA record."""

    id: str
    images: tuple[str, ...]
    """Paths below the dataset's image root, in the order of their marks."""
    turns: tuple[Turn, ...]
    """Starts with ``human``, alternates, ends with ``gpt``."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Labels for reports, such as ``{"kind": "row_sum"}``; they never reach the model."""


def read_llava(json_path: Path, image_root: Path) -> list[Conversation]:
    """Read a LLaVA JSON file and check every record and every image before returning any.

    ``tags``, an extra field of the record, maps names to short texts and is kept; other extra
    fields are ignored, as LLaVA's own loader does.

    Args:
        json_path: A file that holds a list of LLaVA records.
        image_root: The folder that the records' image paths start from.

    Returns:
        The conversations in file order, at least one.

    Raises:
        DataError: If the file is missing, is not JSON or holds no record; if a record has
            another shape, repeats an id or has other than one mark per image; if an image is
            missing, lies outside ``image_root`` or cannot be decoded.
    """
    conversations: list[Conversation] = []
    seen: dict[str, int] = {}
    checked: set[str] = set()
    for index, record in enumerate(_read_list(json_path)):
        conversation = _Record(json_path, index, record).parse()
        where = _location(index, conversation.id)
        first = seen.setdefault(conversation.id, index)
        if first != index:
            raise DataError(str(json_path), where, f"id is already used by record {first}")
        for image in conversation.images:
            if image not in checked:
                _check_image(json_path, where, image_root, image)
                checked.add(image)
        conversations.append(conversation)
    return conversations


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


def _read_list(json_path: Path) -> list[object]:
    source = str(json_path)
    try:
        content = json.loads(json_path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(source, "", f"cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(source, f"byte {error.start}", "is not UTF-8; convert the file") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise DataError(source, where, f"is not JSON: {error.msg}; mend or rewrite it") from error
    if not isinstance(content, list):
        raise DataError(source, "", f"expected a list of records, got {_kind(content)}")
    if not content:
        raise DataError(source, "", "holds no record; a dataset needs at least one")
    return content


def _location(index: int, identity: object) -> str:
    return f"record {index} ({identity!r})" if isinstance(identity, str) else f"record {index}"


@dataclass(frozen=True, slots=True)
class _Record:
    """A raw record with its place in the file, for messages that point to it."""

    source: Path
    index: int
    raw: object

    def parse(self) -> Conversation:
        record = self._mapping(self.raw, "the record", _LLAVA_RECORD)
        images = tuple(self._images(record))
        turns = tuple(self._turns(record))
        self._check_marks(turns, images)
        identity = record.get("id", f"record-{self.index}")
        if isinstance(identity, int) and not isinstance(identity, bool):
            identity = str(identity)
        return Conversation(
            id=self._text(identity, "'id'"), images=images, turns=turns, tags=self._tags(record)
        )

    def _images(self, record: Mapping[str, object]) -> Iterator[str]:
        named = record.get("image", [])
        for path in named if isinstance(named, list) else [named]:
            yield self._text(path, "'image'")

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

    def _check_marks(self, turns: tuple[Turn, ...], images: tuple[str, ...]) -> None:
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
        return DataError(str(self.source), _location(self.index, identity), reason)


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"


def _check_image(json_path: Path, where: str, image_root: Path, image: str) -> None:
    path = image_root / image
    if not path.resolve().is_relative_to(image_root.resolve()):
        reason = f"image {image!r} lies outside the image root {image_root}; use paths below it"
        raise DataError(str(json_path), where, reason)
    try:
        with Image.open(path) as opened:
            opened.load()
    except FileNotFoundError as error:
        reason = f"image {path} does not exist; {_IMAGE_ADVICE}"
        raise DataError(str(json_path), where, reason) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = f"image {path} cannot be decoded ({error}); {_IMAGE_ADVICE}"
        raise DataError(str(json_path), where, reason) from error
