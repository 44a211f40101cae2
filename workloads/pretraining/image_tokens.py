"""A loss at the image's own positions: what the decoder makes of a patch names cell and digit.

It puts what the vision encoder sees into the vocabulary's space at once, so that attention to a
patch is useful from the first steps on.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from workloads.data.scenes import CELL_NAMES, COLUMNS, ROWS, Scene
from workloads.pretraining.vision import EMPTY_CLASS, cell_digits


class ImageTokenLoss:
    """Cross entropy of each image token's logits with its cell's name and with its digit.

    Args:
        tokenize: Text to token ids; the last id of a name or digit stands for it.
        patches_per_side: The image tokens are a square of this side, in reading order.
    """

    def __init__(self, tokenize: Callable[[str], list[int]], patches_per_side: int) -> None:
        self._names = torch.tensor([tokenize(f" {name}")[-1] for name in CELL_NAMES])
        self._digits = torch.tensor([tokenize(str(digit))[-1] for digit in range(EMPTY_CLASS)])
        side = torch.arange(patches_per_side)
        row, column = side * ROWS // patches_per_side, side * COLUMNS // patches_per_side
        self._cell_of_patch = (row[:, None] * COLUMNS + column).flatten()

    def __call__(self, logits: Tensor, scenes: Sequence[Scene]) -> Tensor:
        """Mean of both cross entropies; ``logits`` are ``(scenes, patches, vocabulary)``."""
        names = self._names[self._cell_of_patch].expand(len(scenes), -1)
        digits = cell_digits(scenes)[:, self._cell_of_patch]
        is_written = digits != EMPTY_CLASS
        of_names = F.cross_entropy(logits.flatten(0, 1), names.flatten())
        of_digits = F.cross_entropy(logits[is_written], self._digits[digits[is_written]])
        return 0.5 * (of_names + of_digits)
