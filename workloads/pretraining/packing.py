"""Packing: several questions about a scene in one sequence, none of which sees another.

The image is most of a sequence. Read once for eight questions instead of eight times, an optimizer
step costs a fifth, and each question still has the ids, positions and attention of a sample of
its own. (Several turns of one conversation would cost as little, but let the model copy what was
answered before instead of looking at the image.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from workloads.data import Batch, Encoded, Encoder, Sample, Turn
from workloads.data.collate import IGNORED_LABEL
from workloads.data.questions import Question
from workloads.data.records import IMAGE_MARK
from workloads.data.scenes import Scene
from workloads.kinds import TokenKind

_SHARED, _PADDING = -1, -2


def to_sample(scene: Scene, question: Question, name: str = "") -> Sample:
    """One question as the sample that a reader of digits-vqa would get."""
    turns = (Turn("human", IMAGE_MARK + question.text), Turn("gpt", question.answer))
    return Sample(name, (scene.image,), turns, {"kind": question.kind})


class Packer:
    """Packs questions; every distinct question is tokenised once."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._encoded: dict[Question, Encoded] = {}

    def pack(self, scenes: Sequence[Scene], questions: Sequence[Sequence[Question]]) -> Batch:
        """Pack each scene's questions into a row of ids, labels, positions and attention.

        Returns:
            ``input_ids``, ``labels`` and ``position_ids`` of shape ``(batch, seq)``, and a
            boolean ``attention_mask`` of shape ``(batch, 1, seq, seq)``; no ``pixel_values``.
        """
        rows = [
            _join([self._encode(scene, question) for question in asked])
            for scene, asked in zip(scenes, questions, strict=True)
        ]
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

    def _encode(self, scene: Scene, question: Question) -> Encoded:
        if question not in self._encoded:
            self._encoded[question] = self._encoder.training(to_sample(scene, question))
        return self._encoded[question]


def _join(encoded: Sequence[Encoded]) -> dict[str, Tensor]:
    shared = int((encoded[0]["token_kinds"] == TokenKind.IMAGE).nonzero().max()) + 1
    lengths = [len(row["input_ids"]) - shared for row in encoded]
    positions = [torch.arange(shared), *(torch.arange(length) + shared for length in lengths)]
    segments = [torch.full((length,), number) for number, length in enumerate(lengths)]
    return {
        "input_ids": _concatenate(encoded, "input_ids", shared),
        "labels": _concatenate(encoded, "labels", shared),
        "position_ids": torch.cat(positions),
        "segment": torch.cat([torch.full((shared,), _SHARED), *segments]),
    }


def _concatenate(encoded: Sequence[Encoded], name: str, shared: int) -> Tensor:
    return torch.cat([encoded[0][name][:shared], *(row[name][shared:] for row in encoded)])


def _attention(segment: Tensor) -> Tensor:
    """Which ``(batch, 1, query, key)`` may meet: the past of the own question and the image."""
    seq = segment.shape[1]
    past = torch.ones(seq, seq, dtype=torch.bool).tril()
    of_image = segment[:, None, :] == _SHARED
    of_question = segment[:, None, :] == segment[:, :, None]
    return ((of_image | of_question) & past)[:, None]
