"""What the loop asks of one micro-batch."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workloads.data.collate import IGNORED_LABEL


def count_targets(batch: Mapping[str, Tensor]) -> int:
    """Positions that are predicted: all labels but the first of a row and the ignored ones."""
    return int((batch["labels"][:, 1:] != IGNORED_LABEL).sum())


def is_broken(batch: Mapping[str, Tensor]) -> bool:
    """Whether an input, such as a pixel, is NaN or infinite; a sum tells in one pass."""
    floats = (value for value in batch.values() if value.is_floating_point())
    return any(not math.isfinite(float(value.sum(dtype=torch.float64))) for value in floats)


def with_one_target(batch: Mapping[str, Tensor]) -> Tensor:
    """Labels that keep the mean loss of a batch without answers finite; its weight is zero."""
    labels = batch["labels"].clone()
    labels[:, -1] = batch["input_ids"][:, -1]
    return labels


def to_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Any]:
    """The batch on ``device``."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
