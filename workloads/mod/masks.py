"""Attention masks of Mixture-of-Depths layers: the family's own at the kept rows and columns."""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_mask


def causal_mask(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Additive causal mask ``(1, 1, length, length)``: 0 where seen, very negative where not."""
    hidden = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
    return torch.zeros(length, length, dtype=dtype, device=device).masked_fill(
        hidden, torch.finfo(dtype).min
    )[None, None]


def seen_mask(query_columns: Tensor, key_columns: Tensor, valid: Tensor | None) -> Tensor:
    """Causal by position in the sequence: bool ``(batch, 1, queries, keys)``, True where seen.

    Args:
        query_columns: int64 ``(batch, queries)``; the queries are the last keys.
        key_columns: int64 ``(batch, keys)``.
        valid: bool ``(batch, keys)``, or None if every key counts.
    """
    seen = key_columns.unsqueeze(1) <= query_columns.unsqueeze(2)
    if valid is not None:
        seen = _see_oneself(seen & valid.unsqueeze(1))
    return seen.unsqueeze(1)


def gathered_mask(
    given: Tensor, query_rows: Tensor, key_columns: Tensor, valid: Tensor | None
) -> Tensor:
    """A family's mask at the queries and keys that a layer has.

    Args:
        given: bool (True where seen) or additive ``(batch or 1, heads or 1, rows, columns)``.
        query_rows: int64 ``(batch, queries)`` into ``rows``; the queries are the last keys.
        key_columns: int64 ``(batch, keys)`` into ``columns``.
        valid: bool ``(batch, keys)``, or None if every key counts.

    Returns:
        The same kind of mask, ``(batch, heads or 1, queries, keys)``.
    """
    batch, queries = query_rows.shape
    keys = key_columns.shape[1]
    given = given.expand(batch, *given.shape[1:])
    heads, columns = given.shape[1], given.shape[3]
    rows = query_rows[:, None, :, None].expand(batch, heads, queries, columns)
    cells = key_columns[:, None, None, :].expand(batch, heads, queries, keys)
    mask = given.gather(2, rows).gather(3, cells)
    if valid is None:
        return mask
    hidden = ~valid[:, None, None, :]
    if mask.dtype == torch.bool:
        return _see_oneself(mask & ~hidden)
    own = torch.ones(queries, keys, dtype=torch.bool, device=mask.device)
    own = own.triu(keys - queries).tril(keys - queries)
    return mask.masked_fill(hidden, torch.finfo(mask.dtype).min).masked_fill(own, 0.0)


def evaluated(mask: BlockMask) -> Tensor:
    """Flex attention's mask function as bool ``(batch, heads, rows, columns)``."""
    batch, heads = mask.kv_num_blocks.shape[:2]
    rows, columns = mask.seq_lengths
    return create_mask(mask.mask_mod, batch, heads, rows, columns, device=mask.kv_num_blocks.device)


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a bool mask into what eager and flex attention add to their scores."""
    zero = torch.zeros((), dtype=dtype, device=seen.device)
    return torch.where(seen, zero, torch.finfo(dtype).min)


def _see_oneself(seen: Tensor) -> Tensor:
    # A filling slot would otherwise see nothing, and softmax over nothing is NaN, which
    # reaches the gradients even though the slot's output is thrown away.
    queries, keys = seen.shape[-2:]
    seen.diagonal(keys - queries, -2, -1).fill_(True)
    return seen
