"""Grouping: global batches of samples that are alike, so that little of a batch is padding."""

import numpy as np
from numpy.typing import NDArray

WINDOW = 64
"""Global batches whose samples are sorted together. Neighbours in so many samples are of nearly
one length, and a sample still meets others in every epoch."""


def group_by_length(
    order: NDArray[np.int64],
    lengths: NDArray[np.int64],
    global_batch: int,
    *,
    begun: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Rearrange one epoch so that a global batch has either images or none, and one length.

    Text-only samples and those with images are taken in ``order``, ``WINDOW`` global batches at a
    time; a window is sorted and cut into batches, and all batches of the epoch are shuffled. At
    most two batches of an epoch are mixed: one of what is left of both kinds, and the one that
    the epoch shares with the next.

    Args:
        order: ``(samples,)``, the epoch's permutation of indices.
        lengths: ``(samples, 2)``: images, then characters, by which samples of as many images are
            sorted.
        global_batch: Samples per optimizer step.
        begun: Samples at the start that complete the last batch of the epoch before.
        rng: Shuffles the batches.

    Returns:
        A permutation of ``order``.
    """
    whole = max(len(order) - begun, 0) // global_batch * global_batch
    first, middle, last = np.split(order, [begun, begun + whole])
    if not whole:
        return order
    has_images = lengths[middle, 0] > 0
    batches: list[NDArray[np.int64]] = []
    left: list[NDArray[np.int64]] = []
    for kind in (middle[~has_images], middle[has_images]):
        full = len(kind) // global_batch * global_batch
        cuts = range(WINDOW * global_batch, full, WINDOW * global_batch)
        batches += [_sorted(window, lengths) for window in np.split(kind[:full], cuts)]
        left.append(kind[full:])
    batches.append(_sorted(np.concatenate(left), lengths))
    grouped = np.concatenate(batches).reshape(-1, global_batch)
    return np.concatenate([first, grouped[rng.permutation(len(grouped))].ravel(), last])


def _sorted(samples: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    images, characters = lengths[samples].T
    return samples[np.lexsort((characters, images))]
