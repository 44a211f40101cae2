"""Chat templates: render a conversation and tell which characters are question and answer."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from jinja2 import TemplateError
from transformers import ProcessorMixin

from workloads.data.records import IMAGE_MARK, Turn
from workloads.errors import DataError
from workloads.kinds import TokenKind
from workloads.text_processor import TextProcessor

# Private-use characters: no template text or user text holds them, and none is white space.
_SLOT = "\ue000{}\ue001"
_SLOTS = re.compile("\ue000([0-9]+)\ue001")
# Questions come back, in later epochs at the latest, and a template takes as long as an image.
_REMEMBERED = 10_000
_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}

Message = dict[str, Any]
_Shape = tuple[tuple[str, tuple[bool, ...]], ...]


@dataclass(frozen=True, slots=True)
class Rendered:
    """Template text of a conversation."""

    text: str
    kinds: bytes
    """The ``TokenKind`` of every character of ``text``; image placeholders count as system."""


@dataclass(frozen=True, slots=True)
class _Piece:
    kind: TokenKind
    literal: str = ""
    slot: int | None = None
    """Which of the conversation's texts stands here; None for a literal."""


class ChatTemplate:
    """A processor's chat template, with the place of every turn in what it renders.

    The template is rendered once for every shape of conversation (roles, images and texts in
    order) with slots instead of texts. An answer reaches from where the generation prompt ends
    to where the template ends the turn, so that it holds the end-of-turn token which the model
    has to learn.
    """

    def __init__(self, processor: ProcessorMixin | TextProcessor) -> None:
        self._processor = processor
        self._plans: dict[_Shape, tuple[_Piece, ...]] = {}
        self._rendered: dict[tuple[Turn, ...], Rendered] = {}

    def render(self, sample_id: str, turns: Sequence[Turn]) -> Rendered:
        """Render turns; after a question stands what makes the model answer it.

        Raises:
            DataError: If the template does not show the turns' texts as they are.
        """
        key = tuple(turns)
        if key not in self._rendered:
            if len(self._rendered) >= _REMEMBERED:
                self._rendered.clear()
            self._rendered[key] = self._render(sample_id, key)
        return self._rendered[key]

    def _render(self, sample_id: str, turns: Sequence[Turn]) -> Rendered:
        messages = [_to_message(turn) for turn in turns]
        texts = [part["text"] for part in _text_parts(messages)]
        pieces = self._plan(messages)
        expected = self._template(messages)
        rendered = _fill(pieces, texts)
        if rendered.text != expected:
            # Many templates trim the white space around a turn.
            rendered = _fill(pieces, [text.strip() for text in texts])
        if rendered.text != expected:
            reason = f"the chat template alters a turn's text: {expected!r}; use another template"
            raise DataError(f"sample {sample_id!r}", "", reason)
        return rendered

    def _plan(self, messages: list[Message]) -> tuple[_Piece, ...]:
        shape = _shape_of(messages)
        if shape not in self._plans:
            slotted = _with_slots(messages)
            full = self._template(slotted)
            answers = self._answers(slotted, full)
            self._plans[shape] = tuple(_pieces(full, answers, _instructions(messages)))
        return self._plans[shape]

    def _answers(self, slotted: list[Message], full: str) -> list[tuple[int, int]]:
        spans = []
        for index, message in enumerate(slotted):
            if message["role"] == "assistant":
                before = self._template(slotted[:index])
                after = self._template(slotted[: index + 1])
                if not (full.startswith(before) and full.startswith(after)):
                    reason = (
                        "the chat template rewrites earlier turns when an answer follows, so "
                        "answers have no fixed place; use a template without that"
                    )
                    raise DataError(type(self._processor).__name__, "", reason)
                spans.append((len(before), len(after)))
        return spans

    def _template(self, messages: list[Message]) -> str:
        asks = messages[-1]["role"] == "user"
        try:
            return str(self._processor.apply_chat_template(messages, add_generation_prompt=asks))
        except TemplateError as error:
            reason = f"the chat template refuses the conversation: {error}"
            raise DataError(type(self._processor).__name__, "", reason) from error


def _to_message(turn: Turn) -> Message:
    content: list[Message] = []
    for position, text in enumerate(turn.text.split(IMAGE_MARK)):
        if position:
            content.append({"type": "image"})
        # LLaVA's files put a line break between mark and text; templates bring their own.
        text = text.removeprefix("\n") if position else text
        if text:
            content.append({"type": "text", "text": text})
    for this, following in pairwise(content):
        if this["type"] == "text" and following["type"] == "image":
            this["text"] = this["text"].removesuffix("\n")
    content = [part for part in content if part["type"] == "image" or part["text"]]
    return {"role": _ROLES[turn.role], "content": content}


def _text_parts(messages: Sequence[Message]) -> Iterator[Message]:
    for message in messages:
        yield from (part for part in message["content"] if part["type"] == "text")


def _shape_of(messages: Sequence[Message]) -> _Shape:
    return tuple(
        (message["role"], tuple(part["type"] == "image" for part in message["content"]))
        for message in messages
    )


def _with_slots(messages: Sequence[Message]) -> list[Message]:
    copies = [
        {"role": message["role"], "content": [dict(part) for part in message["content"]]}
        for message in messages
    ]
    for number, part in enumerate(_text_parts(copies)):
        part["text"] = _SLOT.format(number)
    return copies


def _instructions(messages: Sequence[Message]) -> frozenset[int]:
    """Which of the texts stand in system messages."""
    roles = [message["role"] for message in messages for _ in _text_parts([message])]
    return frozenset(number for number, role in enumerate(roles) if role == "system")


def _pieces(
    full: str, answers: Sequence[tuple[int, int]], instructions: frozenset[int]
) -> Iterator[_Piece]:
    cursor = 0
    for start, end in [*answers, (len(full), len(full))]:
        for piece in _asked(full[cursor:start]):
            is_told = piece.slot in instructions
            yield replace(piece, kind=TokenKind.SYSTEM) if is_told else piece
        yield from _split(full[start:end], TokenKind.ANSWER, TokenKind.ANSWER)
        cursor = end


def _asked(text: str) -> Iterator[_Piece]:
    """Pieces up to an answer; what follows the question's text asks for it and belongs to it."""
    pieces = list(_split(text, TokenKind.SYSTEM, TokenKind.QUESTION))
    yield from pieces[:-1]
    for last in pieces[-1:]:
        yield last if len(pieces) == 1 else replace(last, kind=TokenKind.QUESTION)


def _split(text: str, literal: TokenKind, slot: TokenKind) -> Iterator[_Piece]:
    for position, part in enumerate(_SLOTS.split(text)):
        if position % 2:
            yield _Piece(slot, slot=int(part))
        elif part:
            yield _Piece(literal, literal=part)


def _fill(pieces: Sequence[_Piece], texts: Sequence[str]) -> Rendered:
    shown = [piece.literal if piece.slot is None else texts[piece.slot] for piece in pieces]
    kinds = (bytes([piece.kind]) * len(text) for piece, text in zip(pieces, shown, strict=True))
    return Rendered("".join(shown), b"".join(kinds))
