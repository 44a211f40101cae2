"""Packing: several texts about a scene in one sequence, none of which sees another.

The image is most of a sequence. Read once for eight questions instead of eight times, an optimizer
step costs a fifth, and each question still has the ids, positions and attention of a sample of
its own. (Several turns of one conversation would cost as little, but let the model copy what was
answered before instead of looking at the image.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workloads.data import Batch, Encoder, Sample, Turn
from workloads.data.collate import IGNORED_LABEL
from workloads.data.questions import Question
from workloads.data.records import IMAGE_MARK
from workloads.data.scenes import Scene
from workloads.kinds import TokenKind
from workloads.pretraining.lists import Entry

_SHARED, _PADDING = -1, -2


def to_sample(scene: Scene, question: Question, name: str = "") -> Sample:
    """One question as the sample that a reader of digits-vqa would get."""
    turns = (Turn("human", IMAGE_MARK + question.text), Turn("gpt", question.answer))
    return Sample(name, (scene.image,), turns, {"kind": question.kind})


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is to be learned from one scene."""

    scene: Scene
    questions: Sequence[Question]
    """At least one."""
    lists: Sequence[Sequence[Entry]] = ()


@dataclass(frozen=True, slots=True)
class _Text:
    input_ids: list[int]
    labels: list[int]


class Packer:
    """Packs lessons; every distinct question and list entry is tokenised once."""

    def __init__(self, encoder: Encoder, tokenize: Callable[[str], list[int]]) -> None:
        self._encoder, self._tokenize = encoder, tokenize
        self._questions: dict[Question, tuple[_Text, _Text]] = {}
        self._entries: dict[Entry, _Text] = {}

    def pack(self, lessons: Sequence[Lesson]) -> Batch:
        """Pack each lesson into a row.

        Returns:
            ``input_ids``, ``labels`` and ``position_ids`` of shape ``(batch, seq)``, and a
            boolean ``attention_mask`` of shape ``(batch, 1, seq, seq)``; no ``pixel_values``.
        """
        rows = [_join(*self._texts(lesson)) for lesson in lessons]
        fills = {
            "input_ids": self._encoder.pad_token_id,
            "labels": IGNORED_LABEL,
            "position_ids": 0,
            "segment": _PADDING,
        }
        batch = {
            name: torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], True, fill)
            for name, fill in fills.items()
        }
        return batch | {"attention_mask": _attention(batch.pop("segment"))}

    def _texts(self, lesson: Lesson) -> tuple[_Text, list[_Text]]:
        """The shared beginning, which holds the image, and the texts that follow it."""
        asked = [self._question(lesson.scene, question) for question in lesson.questions]
        read = [_concatenate([self._entry(entry) for entry in entries]) for entries in lesson.lists]
        return asked[0][0], [text for _, text in asked] + read

    def _question(self, scene: Scene, question: Question) -> tuple[_Text, _Text]:
        if question not in self._questions:
            encoded = self._encoder.training(to_sample(scene, question))
            ids, labels = encoded["input_ids"].tolist(), encoded["labels"].tolist()
            shared = int((encoded["token_kinds"] == TokenKind.IMAGE).nonzero().max()) + 1
            self._questions[question] = (
                _Text(ids[:shared], labels[:shared]),
                _Text(ids[shared:], labels[shared:]),
            )
        return self._questions[question]

    def _entry(self, entry: Entry) -> _Text:
        if entry not in self._entries:
            name, value = (self._tokenize(text) for text in entry)
            self._entries[entry] = _Text(name + value, [IGNORED_LABEL] * len(name) + value)
        return self._entries[entry]


def _concatenate(texts: Sequence[_Text]) -> _Text:
    return _Text(
        [token for text in texts for token in text.input_ids],
        [label for text in texts for label in text.labels],
    )


def _join(shared: _Text, texts: Sequence[_Text]) -> dict[str, Tensor]:
    whole = _concatenate([shared, *texts])
    start = len(shared.input_ids)
    lengths = [len(text.input_ids) for text in texts]
    positions = [torch.arange(start), *(torch.arange(start, start + n) for n in lengths)]
    segments = [torch.full((n,), number) for number, n in enumerate(lengths)]
    return {
        "input_ids": torch.tensor(whole.input_ids),
        "labels": torch.tensor(whole.labels),
        "position_ids": torch.cat(positions),
        "segment": torch.cat([torch.full((start,), _SHARED), *segments]),
    }


def _attention(segment: Tensor) -> Tensor:
    """Which ``(batch, 1, query, key)`` may meet: the past of the own text and the image."""
    seq = segment.shape[1]
    past = torch.ones(seq, seq, dtype=torch.bool).tril()
    of_image = segment[:, None, :] == _SHARED
    of_text = segment[:, None, :] == segment[:, :, None]
    return ((of_image | of_text) & past)[:, None]
