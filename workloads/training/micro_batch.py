"""Micro-batches: where they come from, and what the loop asks of one."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from workloads.data.collate import IGNORED_LABEL


class Batches(Protocol):
    """This rank's part of every global batch, a pure function of the step."""

    def at(self, step: int) -> Sequence[Mapping[str, Tensor]]:
        """Micro-batches of optimizer step ``step`` (0-based); equally many on all ranks."""

    def sample_ids(self, step: int) -> Sequence[str]:
        """Ids of the samples of the whole global batch of ``step``."""

    def save(self, folder: Path) -> None:
        """Write what has been found out about samples so far; ranks choose different names."""

    def load(self, folder: Path) -> None:
        """Take over what all ranks had written, and forget what was found out since."""


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


def training_inputs(batch: dict[str, Any], targets: int, *, is_mod: bool) -> dict[str, Any]:
    """Keyword arguments of ``forward`` for a micro-batch with ``targets`` predicted positions.

    Args:
        batch: On the model's device.
        targets: See `count_targets`.
        is_mod: Whether the model is converted; only then it takes ``token_kinds``.
    """
    inputs = {**batch, "use_cache": False}
    if targets == 0:
        inputs["labels"] = with_one_target(batch)
    if not is_mod:
        inputs.pop("token_kinds", None)
    return inputs


def to_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Any]:
    """The batch on ``device``."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
