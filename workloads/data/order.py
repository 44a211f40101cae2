"""Order: which samples an optimizer step sees, as a pure function of seed and step."""

import numpy as np


def batch_indices(num_samples: int, global_batch: int, *, seed: int, step: int) -> list[int]:
    """Pick the samples of one optimizer step.

    Every epoch is a permutation of its own, and epochs follow each other without a gap, so a
    batch may hold the end of one and the start of the next. A resumed run asks for its step and
    gets what an undisturbed run got.

    Args:
        num_samples: Size of the dataset.
        global_batch: Samples per optimizer step over all ranks; may exceed ``num_samples``.
        seed: Seed of the permutations.
        step: Optimizer step, counted from 0.

    Returns:
        ``global_batch`` indices in ``[0, num_samples)``.

    Raises:
        ValueError: If a size is not positive or ``step`` is negative.
    """
    if num_samples < 1 or global_batch < 1 or step < 0:
        raise ValueError(
            "expected num_samples >= 1, global_batch >= 1 and step >= 0, "
            f"got {num_samples}, {global_batch} and {step}"
        )
    indices: list[int] = []
    position = step * global_batch
    while len(indices) < global_batch:
        epoch, start = divmod(position + len(indices), num_samples)
        wanted = global_batch - len(indices)
        order = np.random.default_rng([seed, epoch]).permutation(num_samples)
        indices += order[start : start + wanted].tolist()
    return indices
