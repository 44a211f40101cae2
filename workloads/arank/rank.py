"""Numerical rank of attention maps, with the semantics of the gamma-MoD release."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from workloads.arank.errors import ARankError


@dataclass(frozen=True, kw_only=True, slots=True)
class RankOptions:
    """What counts as the rank of a layer's attention.

    The defaults are those of the released gamma-MoD code (``compute_attention_rank`` of its
    ``llava_llama.py``); the paper's formula is ``map="logits"``.
    """

    map: Literal["softmax", "logits"] = "softmax"
    """``softmax``: the causal attention map. ``logits``: the unmasked product of queries and
    keys, whose rank is at most the head dimension."""

    zero_diagonal: bool = True
    """Whether a token's attention to itself is left out, which bounds the rank by seq - 1.
    Only softmax maps have a diagonal to leave out."""

    tolerance: float | None = None
    """Singular values up to ``tolerance`` times the largest count as zero; by default
    ``seq`` times the resolution of float32, as in `torch.linalg.matrix_rank`."""

    def __post_init__(self) -> None:
        if self.map not in ("softmax", "logits"):
            raise ARankError(f"map must be 'softmax' or 'logits', got {self.map!r}")
        if self.tolerance is not None and not 0.0 < self.tolerance < 1.0:
            raise ARankError(f"tolerance must be in (0, 1), got {self.tolerance}")

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RankOptions":
        """Build from `to_json`'s result; an unknown field is an error that names it."""
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise ARankError(f"unknown rank option {unknown[0]!r}; known are {known}")
        return cls(**values)


def map_ranks(maps: Tensor, options: RankOptions | None = None) -> Tensor:
    """Ranks of causal attention maps.

    Args:
        maps: Post-softmax attention ``(..., seq, seq)`` in any float dtype, without padding:
            zero rows of padding would raise the tolerance, which grows with ``seq``.
        options: What to leave out and what to take for zero.

    Returns:
        Ranks ``(...)``, int64, the integers of `torch.linalg.matrix_rank` in float32.

    Raises:
        ARankError: If the maps are not square, are shorter than two tokens or not finite.
    """
    options = options or RankOptions()
    if maps.ndim < 2 or maps.shape[-1] != maps.shape[-2]:
        raise ARankError(f"attention maps must be (..., seq, seq), got {tuple(maps.shape)}")
    _check_length(maps.shape[-1])
    causal = maps.float().tril(-1 if options.zero_diagonal else 0)
    return _count(_singular_values(causal), maps.shape[-1], options)


def product_ranks(query: Tensor, key: Tensor, options: RankOptions) -> Tensor:
    """Ranks of ``query @ key.T`` without ever forming the product (paper, section 3.2).

    With ``query = Q_q R_q`` and ``key = Q_k R_k`` the product's non-zero singular values are
    those of ``R_q R_k^T``, which is no larger than the head dimension.

    Args:
        query: ``(..., seq, head_dim)``, scaled or not: a factor does not change the rank.
        key: ``(..., seq, head_dim)``, broadcast against ``query``.
        options: What to take for zero.

    Returns:
        Ranks ``(...)``, int64, at most ``min(seq, head_dim)``.

    Raises:
        ARankError: If there are fewer than two tokens or values that are not finite.
    """
    _check_length(query.shape[-2])
    for name, tensor in (("queries", query), ("keys", key)):
        if not tensor.isfinite().all():
            raise ARankError(f"the {name} hold NaN or infinite values")
    triangle_q = torch.linalg.qr(query.double(), mode="r").R
    triangle_k = torch.linalg.qr(key.double(), mode="r").R
    values = _singular_values(triangle_q @ triangle_k.transpose(-1, -2))
    return _count(values, query.shape[-2], options)


def _check_length(tokens: int) -> None:
    if tokens < 2:
        raise ARankError(f"a sequence needs at least two tokens to have a rank, got {tokens}")


def _singular_values(matrices: Tensor) -> Tensor:
    if not matrices.isfinite().all():
        raise ARankError("the attention map holds NaN or infinite values")
    values: Tensor = torch.linalg.svdvals(matrices)
    return values


def _count(values: Tensor, tokens: int, options: RankOptions) -> Tensor:
    """Count singular values ``(..., n)``, largest first, that lie above the tolerance."""
    relative = options.tolerance
    if relative is None:
        relative = tokens * torch.finfo(torch.float32).eps
    return (values > values[..., :1] * relative).sum(-1)
