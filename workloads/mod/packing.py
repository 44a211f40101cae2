"""Gather the tokens a layer computes, scatter them back: one copy each way, forward and backward.

Left to autograd, the two index operations zero and add full-size gradients several times per
layer. Their gradients are known: what the layer computed gets its gradient through the layer,
everything else through the residual, and no position gets both.
"""

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
        rows: int64 ``(batch * packed,)`` into ``(batch * seq, hidden)``, fillers included.
        kept: ``rows`` without the fillers.
        slots: Where ``kept`` lies within ``rows``; None if there are no fillers.
    """

    rows: Tensor
    kept: Tensor
    slots: Tensor | None

    @classmethod
    def of(cls, selection: Selection, seq_len: int) -> "Packing":
        """Flatten a selection over a sequence of ``seq_len``."""
        columns = selection.columns
        if columns.shape[0] > 1:
            batch = torch.arange(columns.shape[0], device=columns.device)
            columns = columns + batch.unsqueeze(1) * seq_len
        rows, slots = columns.reshape(-1), selection.slots
        return cls(rows, rows if slots is None else rows.index_select(0, slots), slots)


def pack(hidden_states: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
    """Gather ``(batch, seq, hidden)`` to ``(batch, packed, hidden)``.

    Returns:
        The packed tokens, and ``hidden_states`` again: only :func:`unpack` may use it, because
        its gradient at the kept positions is overwritten.
    """
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
    output: Tensor = _Unpack.apply(carried, computed, scale, packing.kept, packing.slots)
    return output


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
        hidden = carried.shape[-1]
        if scale is None:
            output = carried.clone(memory_format=torch.contiguous_format)
        else:
            output = carried * scale.unsqueeze(-1).to(carried.dtype)
        values = computed.reshape(-1, hidden)
        if slots is not None:
            values = values.index_select(0, slots)
        output.view(-1, hidden).index_copy_(0, kept, values.to(output.dtype))
        return output

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
