"""Batches and engines that go wrong at chosen samples."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.workloads.training.tiny import FakeBatches
from workloads.training import TorchEngine

MARK = 2
"""A token of no other batch; it makes the loss of its batch explode, see `Exploding`."""


class NaNPixel(FakeBatches):
    """One pixel of one sample of rank 0 is NaN in steps ``bad``."""

    bad: tuple[int, ...] = (7,)

    def at(self, step: int) -> list[dict[str, Tensor]]:
        batches = super().at(step)
        if step in self.bad and self.rank == 0:
            batches[0]["pixel_values"][0, 0, 0, 0] = torch.nan
        return batches


class Marked(FakeBatches):
    """The first row of rank 0 ends with the mark in steps ``bad``."""

    bad: tuple[int, ...] = (7,)

    def at(self, step: int) -> list[dict[str, Tensor]]:
        batches = super().at(step)
        if step in self.bad and self.rank == 0:
            batches[0]["input_ids"][0, -1] = MARK
        return batches


class Exploding:
    """Mixed into an engine: the loss of a batch with the mark is ``factor`` times as large."""

    factor = 1e4

    def forward(self, inputs: Mapping[str, Any]) -> Any:
        output = super().forward(inputs)  # type: ignore[misc]
        if bool((inputs["input_ids"] == MARK).any()):
            output.loss = output.loss * self.factor
        return output


class ExplodingTorch(Exploding, TorchEngine):
    """`TorchEngine` with a loss that explodes."""
