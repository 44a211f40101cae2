"""Collation: encoded samples to one padded batch."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from workloads.kinds import TokenKind

Encoded = dict[str, Tensor]
"""Tensors by name: ``(seq,)`` for names in ``SEQUENCE_KEYS``, else rows that belong to images."""

Batch = dict[str, Tensor]
"""The same names; ``(batch, seq)`` for those in ``SEQUENCE_KEYS``, all images' rows otherwise."""

Side = Literal["left", "right"]

IGNORED_LABEL = -100
"""What Hugging Face losses skip."""

SEQUENCE_KEYS = frozenset(
    ("input_ids", "attention_mask", "labels", "token_kinds", "token_type_ids", "mm_token_type_ids")
)
"""What holds one value per token; other names hold images."""


def collate(encoded: Sequence[Encoded], *, pad_token_id: int, side: Side = "right") -> Batch:
    """Pad samples to the longest and join their images in order.

    Args:
        encoded: At least one sample, each with the same ``SEQUENCE_KEYS``; images may be absent
            from some, and a batch without any has no ``pixel_values``.
        pad_token_id: Fills ``input_ids``; labels are filled with ``-100``, kinds with ``PAD``.
        side: Where padding goes: right to train, left to generate.

    Raises:
        ValueError: If there is nothing to collate, or samples differ in their sequence keys.
    """
    if not encoded:
        raise ValueError("nothing to collate: expected at least one encoded sample")
    names = encoded[0].keys() & SEQUENCE_KEYS
    for position, row in enumerate(encoded):
        if row.keys() & SEQUENCE_KEYS != names:
            got = sorted(row.keys() & SEQUENCE_KEYS)
            raise ValueError(
                f"sample {position} has {got}, expected {sorted(names)} as in sample 0"
            )
    fills = {"input_ids": pad_token_id, "labels": IGNORED_LABEL, "token_kinds": int(TokenKind.PAD)}
    batch = {name: _pad([row[name] for row in encoded], fills.get(name, 0), side) for name in names}
    return batch | _join_images(encoded)


def _pad(rows: Sequence[Tensor], fill: int, side: Side) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        list(rows), batch_first=True, padding_value=fill, padding_side=side
    )


def _join_images(encoded: Sequence[Encoded]) -> Batch:
    joined: dict[str, list[Tensor]] = {}
    for row in encoded:
        for name in row.keys() - SEQUENCE_KEYS:
            joined.setdefault(name, []).append(row[name])
    return {name: torch.cat(values) for name, values in joined.items()}
