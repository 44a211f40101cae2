"""Gather the tokens a layer computes, scatter them back: one copy each way, forward and backward.

Left to autograd, the two index operations zero and add full-size gradients several times per
layer. Their gradients are known: what the layer computed gets its gradient through the layer,
everything else through the residual, and no position gets both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from workloads.mod.foreign import Foreign
from workloads.mod.routing import Selection


@dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """Where the tokens of a selection lie in flat views of batch and sequence.

    Args:
        columns: int64 ``(batch, packed)`` into the sequence.
        rows: int64 ``(batch * packed,)`` into ``(batch * seq, hidden)``, fillers included.
        kept: ``rows`` without the fillers.
        slots: Where ``kept`` lies within ``rows``; None if there are no fillers.
    """

    columns: Tensor
    rows: Tensor
    kept: Tensor
    slots: Tensor | None

    @classmethod
    def of(cls, selection: Selection, row_starts: Tensor | None) -> "Packing":
        """Flatten a selection.

        Args:
            selection: What a layer computes.
            row_starts: int64 ``(batch, 1)``: where each sequence begins in the flat view; None for
                a batch of one.
        """
        columns, slots = selection.columns, selection.slots
        flat = columns if row_starts is None else columns + row_starts
        rows = flat.reshape(-1)
        return cls(columns, rows, rows if slots is None else rows.index_select(0, slots), slots)


class PositionTables:
    """Position embeddings of one forward, such as cosines and sines, for the tokens of any layer.

    Tables of one shape are joined, so that a layer gathers once.

    Args:
        tables: One tensor or several, each ``(..., batch or 1, seq, width)``.
    """

    def __init__(self, tables: Tensor | Sequence[Tensor]) -> None:
        self._is_single = isinstance(tables, Tensor)
        given = [tables] if isinstance(tables, Tensor) else list(tables)
        alike = {(table.shape, table.dtype) for table in given}
        self._joined = len(given) if len(alike) == 1 else 1
        self._tables = [torch.cat(given, -1)] if self._joined > 1 else given

    def at(self, packing: Packing) -> Tensor | tuple[Tensor, ...]:
        """The same, ``(..., batch, packed, width)`` each."""
        taken = [_table_rows(table, packing) for table in self._tables]
        parts = taken[0].chunk(self._joined, -1) if self._joined > 1 else tuple(taken)
        return parts[0] if self._is_single else tuple(parts)


def _table_rows(table: Tensor, packing: Packing) -> Tensor:
    batch, packed = packing.columns.shape
    seq_len, width = table.shape[-2:]
    if table.dim() > 3:
        leading = table.shape[:-3]
        index = packing.columns.unsqueeze(-1).expand(*leading, batch, packed, width)
        return table.expand(*leading, batch, seq_len, width).gather(-2, index)
    rows = packing.rows if table.shape[0] == batch else packing.columns.reshape(-1)
    return table.reshape(-1, width).index_select(0, rows).view(batch, packed, width)


def pack(hidden_states: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """Gather ``(batch, seq, hidden)`` to ``(batch, packed, hidden)``.

    Returns:
        The packed tokens, and ``hidden_states`` again: only :func:`unpack` may use it, because
        its gradient at the kept positions is overwritten.
    """
    if not torch.is_grad_enabled():
        return gathered(hidden_states, packing), hidden_states
    packed, carried = _Pack.apply(hidden_states, packing.rows, packing.kept, packing.slots)
    return packed, carried


def gathered(values: Tensor, packing: Packing) -> Tensor:
    """Take what belongs to the packed tokens out of ``(batch, seq, width)``."""
    batch, _, width = values.shape
    return values.reshape(-1, width).index_select(0, packing.rows).view(batch, -1, width)


def unpack(
    carried: Tensor, computed: Tensor, packing: Packing, scale: Tensor | None = None
) -> Tensor:
    """Put what a layer computed over what the other tokens carry on.

    Args:
        carried: ``(batch, seq, hidden)`` from :func:`pack`.
        computed: ``(batch, packed, hidden)``; fillers are dropped.
        packing: The same as for :func:`pack`.
        scale: ``(batch, seq)``, factor of the tokens that are not computed, or None for 1.

    Returns:
        ``(batch, seq, hidden)``, a new tensor.
    """
    if not torch.is_grad_enabled():
        return _overwritten(carried, computed, scale, packing.kept, packing.slots)
    output: Tensor = _Unpack.apply(carried, computed, scale, packing.kept, packing.slots)
    return output


def _overwritten(
    carried: Tensor, computed: Tensor, scale: Tensor | None, kept: Tensor, slots: Tensor | None
) -> Tensor:
    hidden = carried.shape[-1]
    values = computed.reshape(-1, hidden)
    if slots is not None:
        values = values.index_select(0, slots)
    if scale is not None:
        carried = carried * scale.unsqueeze(-1).to(carried.dtype)
    flat = carried.reshape(-1, hidden)
    return flat.index_copy(0, kept, values.to(flat.dtype)).view(carried.shape)


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Foreign, hidden_states: Tensor, rows: Tensor, kept: Tensor, slots: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(kept, slots)
        batch, _, hidden = hidden_states.shape
        packed = hidden_states.reshape(-1, hidden).index_select(0, rows)
        return packed.view(batch, -1, hidden), hidden_states.view_as(hidden_states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Foreign, grad_packed: Tensor, grad_carried: Tensor) -> tuple[Any, ...]:
        kept, slots = ctx.saved_tensors
        hidden = grad_carried.shape[-1]
        grad_packed = grad_packed.reshape(-1, hidden)
        if slots is not None:
            grad_packed = grad_packed.index_select(0, slots)
        grad = grad_carried.clone(memory_format=torch.contiguous_format)
        grad.view(-1, hidden).index_copy_(0, kept, grad_packed.to(grad.dtype))
        return grad, None, None, None


class _Unpack(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Foreign,
        carried: Tensor,
        computed: Tensor,
        scale: Tensor | None,
        kept: Tensor,
        slots: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(None if scale is None else carried, scale, kept, slots)
        ctx.computed_shape = computed.shape
        return _overwritten(carried, computed, scale, kept, slots)

    @staticmethod
    @once_differentiable
    def backward(ctx: Foreign, grad: Tensor) -> tuple[Any, ...]:
        carried, scale, kept, slots = ctx.saved_tensors
        hidden = grad.shape[-1]
        grad_computed = grad.reshape(-1, hidden).index_select(0, kept)
        if slots is not None:
            filled = grad.new_zeros(ctx.computed_shape).view(-1, hidden)
            grad_computed = filled.index_copy_(0, slots, grad_computed)
        grad_computed = grad_computed.view(ctx.computed_shape)
        if scale is None:
            return grad, grad_computed, None, None, None
        grad_scale = (grad * carried).sum(-1).to(scale.dtype)
        grad_scale.view(-1).index_fill_(0, kept, 0.0)
        grad_carried = grad * scale.unsqueeze(-1).to(grad.dtype)
        return grad_carried, grad_computed, grad_scale, None, None
