"""Samples of a shard that a training leaves out, to be measured on them."""

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from workloads.data.shards import Sample, Shard
from workloads.errors import DataError


class Subset(Sequence[Sample]):
    """Some samples of a shard, in the order of ``indices``.

    Args:
        shard: Where they are.
        indices: ``(samples,)`` positions in it.
    """

    def __init__(self, shard: Shard, indices: NDArray[np.int64]) -> None:
        self._shard, self._indices = shard, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        """Read one sample, or several; raises as `Shard` does."""
        if isinstance(index, slice):
            return [self._shard[int(position)] for position in self._indices[index]]
        return self._shard[int(self._indices[index])]

    def ids(self, indices: Iterable[int]) -> list[str]:
        """Ids of samples, whether or not their images can be decoded."""
        return self._shard.ids([int(self._indices[index]) for index in indices])

    def lengths(self) -> NDArray[np.int64]:
        """Images and characters of every sample, ``(samples, 2)``; no image is read."""
        return self._shard.lengths()[self._indices]


def hold_out(shard: Shard, count: int, *, seed: int) -> tuple[Subset, Subset]:
    """Part a shard into what is trained on and ``count`` random samples that are not.

    Raises:
        DataError: If fewer samples would be left than are held out.
    """
    if len(shard) < 2 * count:
        reason = (
            f"has {len(shard)} samples, of which validation would hold out {count}: "
            "lower validation.batches, or use more data"
        )
        raise DataError(str(shard.path), "", reason)
    order = np.random.default_rng(seed).permutation(len(shard))
    held_out, rest = np.sort(order[:count]), np.sort(order[count:])
    return Subset(shard, rest), Subset(shard, held_out)
