"""Order: which samples an optimizer step sees, as a pure function of seed, epoch and position."""

import numpy as np
from numpy.typing import NDArray

from workloads.data.grouping import group_by_length


class SampleOrder:
    """The endless stream of samples that global batches are cut from.

    Every epoch is a permutation of its own, and epochs follow each other without a gap, so a
    batch may hold the end of one and the start of the next. A resumed run asks for its step and
    gets what an undisturbed run got.

    Args:
        num_samples: Size of the dataset.
        global_batch: Samples per optimizer step over all ranks; may exceed ``num_samples``.
        seed: Seed of the permutations.
        lengths: ``(samples, 2)``, images and characters of each sample: epochs are grouped by
            them, see `group_by_length`. Without them the stream is the same for every
            ``global_batch``.

    Raises:
        ValueError: If a size is not positive.
    """

    def __init__(
        self,
        num_samples: int,
        global_batch: int,
        *,
        seed: int,
        lengths: NDArray[np.int64] | None = None,
    ) -> None:
        if num_samples < 1 or global_batch < 1:
            raise ValueError(
                "expected num_samples >= 1 and global_batch >= 1, "
                f"got {num_samples} and {global_batch}"
            )
        self._size, self._global_batch = num_samples, global_batch
        self._seed, self._lengths = seed, lengths
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def batch(self, step: int) -> list[int]:
        """Samples of optimizer step ``step`` (from 0): ``global_batch`` indices.

        Raises:
            ValueError: If ``step`` is negative.
        """
        if step < 0:
            raise ValueError(f"expected step >= 0, got {step}")
        first = step * self._global_batch
        return [self.sample(position) for position in range(first, first + self._global_batch)]

    def sample(self, position: int) -> int:
        """The sample at one position of the stream."""
        epoch, place = divmod(position, self._size)
        return int(self._epoch(epoch)[place])

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        order = self._epochs.get(epoch)
        if order is None:
            order = self._permute(epoch)
            # Two threads may ask at once: both make the same, and the dictionary is replaced.
            beside = {e: known for e, known in self._epochs.items() if abs(e - epoch) == 1}
            self._epochs = {**beside, epoch: order}
        return order

    def _permute(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(self._size)
        if self._lengths is None:
            return order
        begun = -epoch * self._size % self._global_batch
        return group_by_length(order, self._lengths, self._global_batch, begun=begun, rng=rng)
