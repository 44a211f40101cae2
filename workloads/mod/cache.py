"""Key-value cache of a Mixture-of-Depths layer: what it computed, and where that came from."""

from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

_Change: TypeAlias = Callable[[Tensor], Tensor]


class MoDCacheLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Stores the keys that one layer computed and reports the length of the whole sequence.

    Stored slots are shared by the rows of a batch: a row that computed fewer tokens than
    another has slots that hold nothing of use, marked in :attr:`valid`.

    Attributes:
        valid: bool ``(batch, stored)``; None while every slot of every row is valid.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.valid: Tensor | None = None
        self._columns: list[Tensor] = []
        self._seen = 0

    @property
    def columns(self) -> Tensor:
        """Position in the sequence of each stored key, int64 ``(batch, stored)``."""
        if len(self._columns) > 1:
            # Decoding one token after another seldom asks, so the pieces are joined here.
            self._columns = [torch.cat(self._columns, dim=1)]
        return self._columns[0]

    @property
    def is_empty(self) -> bool:
        """Whether nothing was stored yet."""
        return not self._columns

    def extend(self, columns: Tensor, valid: Tensor | None, seq_len: int) -> None:
        """Announce the keys that the layer's next ``update`` stores.

        Args:
            columns: int64 ``(batch, new)`` positions in the whole sequence.
            valid: bool ``(batch, new)``, or None if all are.
            seq_len: Tokens of the sequence this forward covers, computed or not.
        """
        self._seen += seq_len
        if valid is not None or self.valid is not None:
            after = _all_true(columns) if valid is None else valid
            if self.is_empty:
                self.valid = after
            else:
                before = _all_true(self.columns) if self.valid is None else self.valid
                self.valid = torch.cat([before, after], dim=1)
        self._columns.append(columns)

    def skip(self, seq_len: int) -> None:
        """Note that the layer computed none of the next ``seq_len`` tokens."""
        self._seen += seq_len

    def stored_lengths(self) -> Tensor | int:
        """Valid keys per row, int64 ``(batch, 1)``; one number while all rows agree."""
        if self.is_empty:
            return 0
        return self.columns.shape[1] if self.valid is None else self.valid.sum(1, keepdim=True)

    def get_seq_length(self) -> int:
        """Length of the sequence seen, computed or not: positions and masks depend on it."""
        return self._seen

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._columns, self.valid, self._seen = [], None, 0

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens of the sequence.

        Raises:
            ValueError: If ``tokens_to_remove`` is positive.
        """
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes 0 or a negative number of tokens, got {tokens_to_remove}")
        self._seen += tokens_to_remove
        if tokens_to_remove == 0 or self.is_empty:
            return
        remains = self.columns < self._seen
        if self.valid is not None:
            remains &= self.valid
        slots = int(remains.any(0).sum())
        self._change(lambda states: states[..., :slots, :], lambda marks: marks[:, :slots])
        remains = remains[:, :slots]
        self.valid = None if self.valid is None and bool(remains.all()) else remains

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams: row ``i`` becomes what row ``beam_idx[i]`` was."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep rows ``indices``, in that order."""
        self._change(*[lambda rows: rows[indices.to(rows.device)]] * 2)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row ``repeats`` times."""
        self._change(*[lambda rows: rows.repeat_interleave(repeats, dim=0)] * 2)

    def _change(self, states: _Change, marks: _Change) -> None:
        if self.is_empty or self.keys is None or self.values is None:
            return
        self.keys, self.values = states(self.keys), states(self.values)
        self._columns = [marks(self.columns)]
        self.valid = None if self.valid is None else marks(self.valid)


def install(cache: Cache, layers: Iterable[int]) -> None:
    """Give the converted layers of an unused cache their own kind of storage.

    Args:
        cache: A ``DynamicCache``; layers that have it already are left alone.
        layers: Indices of the converted decoder layers.

    Raises:
        ValueError: If a layer's cache is of another kind, or filled by a dense model.
    """
    layers = tuple(layers)
    while len(cache.layers) <= max(layers) and cache.layer_class_to_replicate is DynamicLayer:
        cache.layers.append(DynamicLayer())  # type: ignore[no-untyped-call]
    kinds = {index: cache.layers[index] for index in layers}
    for index, layer in kinds.items():
        if isinstance(layer, MoDCacheLayer):
            continue
        if type(layer) is not DynamicLayer:
            raise ValueError(
                f"past_key_values holds a {type(layer).__name__} for layer {index}, which is a "
                "Mixture-of-Depths layer and needs a DynamicCache"
            )
        if layer.is_initialized:
            raise ValueError(
                f"past_key_values was filled by a dense model in layer {index}, start with none"
            )
    for index, layer in kinds.items():
        if not isinstance(layer, MoDCacheLayer):
            cache.layers[index] = MoDCacheLayer()


def _all_true(columns: Tensor) -> Tensor:
    return torch.ones_like(columns, dtype=torch.bool)
