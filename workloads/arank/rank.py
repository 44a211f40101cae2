"""Numerical rank of attention maps, with the semantics of the gamma-MoD release."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from workloads.arank.errors import ARankError
from workloads.arank.inertia import EPS32, certified_rank
from workloads.arank.threads import on_all_threads
from workloads.arank.workspace import Workspace, Workspaces

SMALLEST_CERTIFIED = 384
"""Maps of fewer rows are ranked by their singular values, which is faster there."""


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

    block: Literal["all", "image-image", "text-image"] = "all"
    """Which part of the map: queries and keys of all tokens, image tokens attending to image
    tokens, or text tokens (any kind but image and padding) attending to image tokens."""

    tolerance: float | None = None
    """Singular values up to ``tolerance`` times the largest count as zero; by default the
    larger side of the map times the resolution of float32, as in `torch.linalg.matrix_rank`."""

    def __post_init__(self) -> None:
        if self.map not in ("softmax", "logits"):
            raise ARankError(f"map must be 'softmax' or 'logits', got {self.map!r}")
        if self.block not in ("all", "image-image", "text-image"):
            known = "'all', 'image-image' or 'text-image'"
            raise ARankError(f"block must be {known}, got {self.block!r}")
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


def map_ranks(
    maps: Tensor,
    options: RankOptions | None = None,
    *,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
) -> Tensor:
    """Ranks of the causal part of attention maps, or of blocks of them.

    Large maps are ranked by `certified_rank`, on as many threads as torch may use; small ones,
    and those with a singular value so near the tolerance that rounding decides, by the very
    call of the release. So both ways give one integer.

    Args:
        maps: Post-softmax attention ``(..., rows, columns)`` in any float dtype on any device,
            without padding: zero rows of padding would raise the tolerance, which grows with
            the size. Ranks are computed on the CPU in float32.
        options: What to leave out and what to take for zero.
        rows: Position in the sequence of every query ``(rows,)``; by default ``0, 1, ...``.
        columns: Position of every key ``(columns,)``; by default ``0, 1, ...``.

    Returns:
        Ranks ``(...)``, int64, the integers of `torch.linalg.matrix_rank` in float32.

    Raises:
        ARankError: If whole maps are not square or shorter than two tokens, the positions do not
            fit, or a value is not finite.
    """
    options = options or RankOptions()
    if rows is None and columns is None:
        if maps.ndim < 2 or maps.shape[-1] != maps.shape[-2]:
            raise ARankError(f"attention maps must be (..., seq, seq), got {tuple(maps.shape)}")
        check_length(maps.shape[-1])
    rows = torch.arange(maps.shape[-2]) if rows is None else rows
    columns = torch.arange(maps.shape[-1]) if columns is None else columns
    if maps.shape[-2:] != (len(rows), len(columns)):
        raise ARankError(
            f"a block of {len(rows)} x {len(columns)} positions cannot be {tuple(maps.shape)}"
        )
    part = CausalPart.of(rows, columns, options)
    spaces = Workspaces()

    def ranked(one: Tensor) -> int:
        with spaces.one() as space:
            matrix = space.tensor("map", tuple(one.shape), torch.float32).copy_(one)
            return causal_rank(matrix, part, options, space)

    ranks = on_all_threads(ranked, maps.detach().reshape(-1, *maps.shape[-2:]))
    return torch.tensor(ranks, dtype=torch.int64).reshape(maps.shape[:-2])


@dataclass(frozen=True, slots=True)
class CausalPart:
    """Which entries of a map or block ``(rows, columns)`` count."""

    left_out: Tensor
    """Bool ``(rows, columns)``, on the CPU."""
    is_lower: bool
    """Whether all that counts lies on or below the diagonal of a block that is not wide."""

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, options: RankOptions) -> "CausalPart":
        """What a query at ``rows`` attends to among the keys at ``columns``."""
        left_out = rows[:, None].cpu() < columns.cpu() + int(options.zero_diagonal)
        is_lower = len(rows) >= len(columns) and not (~left_out).triu_(1).any()
        return cls(left_out, is_lower)


def causal_rank(matrix: Tensor, part: CausalPart, options: RankOptions, space: Workspace) -> int:
    """Rank of ``part`` of one map or block, float32 on the CPU, which is overwritten.

    Raises:
        ARankError: If a value is not finite.
    """
    if not matrix.sum().isfinite():
        raise ARankError("the attention map holds NaN or infinite values")
    matrix.masked_fill_(part.left_out, 0.0)
    rank = None
    if min(matrix.shape) >= SMALLEST_CERTIFIED:
        tolerance = options.tolerance or max(matrix.shape) * EPS32
        rank = certified_rank(matrix, tolerance, is_lower=part.is_lower, space=space)
    if rank is None:
        rank = int(torch.linalg.matrix_rank(matrix, rtol=options.tolerance))
    return rank


def product_ranks(query: Tensor, key: Tensor, options: RankOptions) -> Tensor:
    """Ranks of ``query @ key.T`` without ever forming the product (paper, section 3.2).

    With ``query = Q_q R_q`` and ``key = Q_k R_k`` the product's non-zero singular values are
    those of ``R_q R_k^T``, which is no larger than the head dimension.

    Args:
        query: ``(..., rows, head_dim)``, scaled or not: a factor does not change the rank.
        key: ``(..., columns, head_dim)``, broadcast against ``query``.
        options: What to take for zero.

    Returns:
        Ranks ``(...)``, int64, at most ``min(rows, columns, head_dim)``.

    Raises:
        ARankError: If there are fewer than two tokens or values that are not finite.
    """
    longest = max(query.shape[-2], key.shape[-2])
    check_length(longest)
    for name, tensor in (("queries", query), ("keys", key)):
        if not tensor.isfinite().all():
            raise ARankError(f"the {name} hold NaN or infinite values")
    triangle_q = torch.linalg.qr(query.double(), mode="r").R
    triangle_k = torch.linalg.qr(key.double(), mode="r").R
    values = torch.linalg.svdvals(triangle_q @ triangle_k.transpose(-1, -2))
    return _count(values, longest, options)


def check_length(tokens: int) -> None:
    """Refuse a sequence that has no rank.

    Raises:
        ARankError: If it is shorter than two tokens.
    """
    if tokens < 2:
        raise ARankError(f"a sequence needs at least two tokens to have a rank, got {tokens}")


def _count(values: Tensor, tokens: int, options: RankOptions) -> Tensor:
    """Count singular values ``(..., n)``, largest first, that lie above the tolerance."""
    relative = options.tolerance
    if relative is None:
        relative = tokens * EPS32
    return (values > values[..., :1] * relative).sum(-1)
