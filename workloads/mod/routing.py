"""Which tokens a layer computes: counts and choices, as pure functions.

Rows of a batch keep different numbers of tokens. They are packed to the largest number, with
the kept tokens first and in sequence order; what fills a shorter row behind them are distinct
other tokens of that row, computed and thrown away. So a causal mask alone keeps them out of
every kept token's sight, and gather and scatter need no padding slot.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workloads.mod.config_checks import Rounding

# Products such as 0.29 * 100 miss the integer they mean by less than this.
_ROUNDING_SLACK = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The tokens one layer computes.

    Args:
        columns: int64 ``(batch, packed)``: positions in the sequence, kept ones first and
            ascending; distinct within a row.
        valid: bool ``(batch, packed)``, False at filling slots; None if there are none.
        slots: int64: the valid slots in the flat view of ``columns``; None if all are.
    """

    columns: Tensor
    valid: Tensor | None = None
    slots: Tensor | None = None

    def routed_mask(self, seq_len: int) -> Tensor:
        """Mask ``(batch, seq_len)``, True where the layer computes the token."""
        batch = self.columns.shape[0]
        mask = torch.zeros(batch, seq_len, dtype=torch.bool, device=self.columns.device)
        kept = self.valid if self.valid is not None else torch.ones_like(self.columns).bool()
        return mask.scatter(1, self.columns, kept)


def routed_count(routable: int, capacity: float, rounding: Rounding) -> int:
    """Number of routable tokens of one row that a layer computes.

    Args:
        routable: Routable tokens in the row.
        capacity: Share to compute, in (0, 1].
        rounding: ``ceil`` (gamma-MoD) or ``floor`` (p-MoD).

    Returns:
        At least 1 where there is a routable token, at most ``routable``.
    """
    if routable == 0:
        return 0
    exact = capacity * routable
    if rounding == "ceil":
        count = math.ceil(exact - _ROUNDING_SLACK)
    else:
        count = math.floor(exact + _ROUNDING_SLACK)
    return min(max(count, 1), routable)


def slots_of(
    counts: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Which slots hold kept tokens when rows with ``counts`` of them are packed to the largest.

    Args:
        counts: Kept tokens per row, on the host.
        device: Where the results go.

    Returns:
        Mask ``(batch, max(counts))``, True in the first ``counts[row]`` slots, and the flat
        indices of its True cells, int64 and ascending; None twice if every slot is True.
    """
    packed = max(counts)
    if min(counts) == packed:
        return None, None
    valid = torch.arange(packed) < torch.tensor(counts).unsqueeze(1)
    slots = valid.view(-1).nonzero().squeeze(1)
    if device.type == "cuda":
        valid, slots = valid.pin_memory(), slots.pin_memory()
    return valid.to(device, non_blocking=True), slots.to(device, non_blocking=True)


def select_top(
    ranked: Tensor, packed: int, valid: Tensor | None, slots: Tensor | None
) -> Selection:
    """The highest-ranked tokens of each row, in sequence order.

    Expert choice: the layer picks its tokens, so its load is fixed and needs no balancing
    loss (Raposo et al., arXiv 2404.02258, section 3).

    Args:
        ranked: float32 ``(batch, seq)``; ``+inf`` at protected tokens, ``-inf`` at padding.
        packed: Tokens of the fullest row.
        valid: From :func:`slots_of` for the rows' counts.
        slots: From the same.

    Returns:
        The selection; fillers come from the best of the rest.
    """
    if valid is None:
        return Selection(ranked.topk(packed, sorted=False).indices.sort().values)
    order = ranked.topk(packed).indices
    behind = (~valid) * ranked.shape[1]
    return Selection((order + behind).sort().values - behind, valid, slots)


def select_above(
    scores: Tensor,
    threshold: float | Tensor,
    routable: Tensor,
    real: Tensor,
    *,
    keep_one: bool,
) -> Tensor:
    """Mask ``(batch, seq)`` of protected tokens and of those whose score passes a threshold.

    Each token is judged by itself, so the rule is causal.

    Args:
        scores: float32 ``(batch, seq)``.
        threshold: In the units of the scores, one or ``(batch, seq)``.
        routable: bool ``(batch, seq)``.
        real: bool ``(batch, seq)``, False at padding.
        keep_one: Whether a row that would keep nothing keeps its best token; attention over an
            empty row is undefined.
    """
    kept = torch.where(routable, scores > threshold, real)
    if not keep_one:
        return kept
    best = scores.masked_fill(~real, -torch.inf).argmax(1, keepdim=True)
    rescued = torch.zeros_like(kept).scatter(1, best, ~kept.any(1, keepdim=True)) & real
    return kept | rescued


def selection_of(kept: Tensor, real_counts: Sequence[int]) -> Selection | None:
    """Pack a mask; waits for the device once, for the counts.

    Args:
        kept: bool ``(batch, seq)``.
        real_counts: Tokens of each row that are not padding.

    Returns:
        The selection, with no column at all if nothing is kept; None if every token is.
    """
    counts = kept.sum(1).tolist()
    if counts == list(real_counts):
        return None
    # A stable sort of "not kept" lists the kept positions in sequence order, then the others.
    order = kept.logical_not().to(torch.uint8).sort(dim=1, stable=True).indices
    valid, slots = slots_of(counts, kept.device)
    return Selection(order[:, : max(counts)], valid, slots)


def gather_tokens(values: Tensor, columns: Tensor) -> Tensor:
    """Take ``columns`` out of what holds something for each token.

    Args:
        values: ``(batch or 1, seq, ...)``.
        columns: int64 ``(batch, packed)``.

    Returns:
        ``(batch, packed, ...)``.
    """
    index = columns.view(*columns.shape, *[1] * (values.dim() - 2))
    index = index.expand(*columns.shape, *values.shape[2:])
    return values.expand(columns.shape[0], *values.shape[1:]).gather(1, index)
