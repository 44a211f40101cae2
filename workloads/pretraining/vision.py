"""First part: the vision encoder alone learns what is written in each cell of a scene, and where.

A decoder gets no useful gradient through a random vision encoder: from random weights the whole
model stays at the answers' prior for a thousand steps that this part saves.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from workloads.data.scenes import COLUMNS, EMPTY, ROWS, Scene
from workloads.pretraining.optimizer import Optimizer
from workloads.pretraining.recipe import PretrainingRecipe
from workloads.reporting import Reporter

ToPixels = Callable[[Sequence[Scene]], Tensor]
"""The processor's ``pixel_values`` of scenes, ``(scenes, 3, height, width)``."""

_CELLS = ROWS * COLUMNS
EMPTY_CLASS = 10
_TILT, _SCALE, _SHIFT = 0.10, 0.10, 0.04
_PATCH_WEIGHT, _PLACE_WEIGHT = 0.3, 0.3
_REPORT_EVERY = 50


class CellReader(nn.Module):
    """A vision encoder with throw-away heads: a cell's digit; a patch's digit, row and column."""

    def __init__(self, vision: PreTrainedModel, patches_per_side: int) -> None:
        super().__init__()
        hidden = vision.config.hidden_size
        self.vision = vision
        self.digit = nn.Linear(hidden, EMPTY_CLASS + 1)
        self.row = nn.Linear(hidden, ROWS)
        self.column = nn.Linear(hidden, COLUMNS)
        side = torch.arange(patches_per_side)
        row, column = side * ROWS // patches_per_side, side * COLUMNS // patches_per_side
        self.row_of_patch = row.repeat_interleave(patches_per_side)
        self.column_of_patch = column.repeat(patches_per_side)
        self.cell_of_patch = self.row_of_patch * COLUMNS + self.column_of_patch

    def features(self, pixel_values: Tensor) -> Tensor:
        """What the projector will get, ``(batch, patches, hidden)``."""
        last: Tensor = self.vision(pixel_values, output_hidden_states=True).hidden_states[-1]
        return last[:, 1:]

    def read_cells(self, features: Tensor) -> Tensor:
        """Logits of the digit in every cell, ``(batch, cells, 11)``; 10 stands for none."""
        cells = features.new_zeros(len(features), _CELLS, features.shape[-1])
        cells = cells.index_add(1, self.cell_of_patch, features)
        logits: Tensor = self.digit(cells * (_CELLS / features.shape[1]))
        return logits

    def loss(self, pixel_values: Tensor, digits: Tensor) -> Tensor:
        """Cross entropy of all heads; ``digits`` are the classes of ``cell_digits``."""
        features = self.features(pixel_values)
        count = len(features)
        by_patch = digits[:, self.cell_of_patch]
        return (
            _cross_entropy(self.read_cells(features), digits)
            + _PATCH_WEIGHT * _cross_entropy(self.digit(features), by_patch)
            + _PLACE_WEIGHT * _cross_entropy(self.row(features), self.row_of_patch.repeat(count))
            + _PLACE_WEIGHT
            * _cross_entropy(self.column(features), self.column_of_patch.repeat(count))
        )


def _cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), classes.flatten())


def teach_cells(
    reader: CellReader,
    to_pixels: ToPixels,
    scenes: Sequence[Scene],
    recipe: PretrainingRecipe,
    reporter: Reporter,
) -> None:
    """Train the vision encoder on slightly warped scenes."""
    rng = np.random.default_rng([recipe.seed, 1])
    steps = recipe.vision_steps
    optimizer = Optimizer(
        reader.parameters(), recipe, learning_rate=recipe.vision_learning_rate, steps=steps
    )
    reader.train()
    for step in range(1, steps + 1):
        chosen = [scenes[i] for i in rng.integers(len(scenes), size=recipe.vision_batch)]
        loss = optimizer.step(reader.loss(warp(to_pixels(chosen), rng), cell_digits(chosen)))
        if step % _REPORT_EVERY == 0 or step == steps:
            reporter.metrics(step, {"cells_loss": loss})
            reporter.progress(step, steps, note="vision encoder")


@torch.no_grad()
def share_of_digits_read(reader: CellReader, to_pixels: ToPixels, scenes: Sequence[Scene]) -> float:
    """Share of the written cells whose digit the vision encoder's head names."""
    reader.train(mode=False)
    digits = cell_digits(scenes)
    read = reader.read_cells(reader.features(to_pixels(scenes))).argmax(dim=-1)
    return float((read == digits)[digits != EMPTY_CLASS].float().mean())


def cell_digits(scenes: Sequence[Scene]) -> Tensor:
    """Classes of all cells, ``(scenes, cells)``; 10 stands for an empty one."""
    grids = np.stack([scene.grid for scene in scenes]).reshape(len(scenes), _CELLS)
    return torch.from_numpy(np.where(grids == EMPTY, EMPTY_CLASS, grids))


def warp(pixel_values: Tensor, rng: np.random.Generator) -> Tensor:
    """Tilt, shear, scale and shift each image a little: 1,347 digits alone are learned by heart."""
    count = len(pixel_values)
    matrix = np.zeros((count, 2, 3))
    matrix[:, 0, 0] = 1.0 + rng.uniform(-_SCALE, _SCALE, count)
    matrix[:, 1, 1] = 1.0 + rng.uniform(-_SCALE, _SCALE, count)
    matrix[:, 0, 1] = rng.uniform(-_TILT, _TILT, count)
    matrix[:, 1, 0] = rng.uniform(-_TILT, _TILT, count)
    matrix[:, :, 2] = rng.uniform(-_SHIFT, _SHIFT, (count, 2))
    grid = F.affine_grid(
        torch.from_numpy(matrix).to(pixel_values.dtype), list(pixel_values.shape), False
    )
    return F.grid_sample(pixel_values, grid, padding_mode="border", align_corners=False)
