"""Scenes of real handwritten digits on a noisy canvas; train and eval share no digit."""

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Split = Literal["train", "eval"]

ROWS = 4
COLUMNS = 4
CELL_PIXELS = 16
SCENE_PIXELS = ROWS * CELL_PIXELS
CELL_NAMES = "ABCDEFGHIJKLMNOP"
"""In reading order."""

EMPTY = -1

# Fixed, not a parameter: the shipped base model has learned from the train digits, so a split
# that moved with a dataset's seed would hand it digits that it is then tested on.
_SPLIT_SEED = 1797
_EVAL_SHARE = 0.25

_DIGITS_PER_SCENE = (2, 6)
_DIGITS_PER_ROW = 2
_DIGIT_PIXELS = (12, 15)
_TILT_DEGREES = 10.0
_INK_LEVEL = (170.0, 255.0)
_PAPER_LEVEL, _PAPER_NOISE = 45.0, 14.0


@dataclass(frozen=True, slots=True)
class DigitPool:
    """Handwritten digits that scenes of one split may show."""

    ink: NDArray[np.uint8]
    """Shape ``(digits, 8, 8)``; 0 is paper, 255 full ink."""

    values: NDArray[np.int64]
    """Shape ``(digits,)``, 0 to 9."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A canvas and what is written in each of its cells."""

    pixels: NDArray[np.uint8]
    """Shape ``(64, 64)``, grey levels."""

    grid: NDArray[np.int64]
    """Shape ``(rows, columns)``: the digit in a cell, or ``EMPTY``."""

    @property
    def image(self) -> Image.Image:
        """The canvas as a grey PIL image."""
        return Image.fromarray(self.pixels)


@cache
def digit_pool(split: Split) -> DigitPool:
    """Take the digits of one split from scikit-learn's 1,797 (Alpaydin & Kaynak, UCI, 1998).

    The same quarter of every class is held out whatever the seed of a dataset is.
    """
    from sklearn.datasets import load_digits

    data, values = load_digits(return_X_y=True)
    held_out = np.zeros(len(values), dtype=bool)
    rng = np.random.default_rng(_SPLIT_SEED)
    for value in range(10):
        members = rng.permutation(np.flatnonzero(values == value))
        held_out[members[: round(len(members) * _EVAL_SHARE)]] = True
    chosen = held_out if split == "eval" else ~held_out
    ink = np.round(data[chosen].reshape(-1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)
    return DigitPool(ink, values[chosen].astype(np.int64))


def draw_scene(pool: DigitPool, rng: np.random.Generator) -> Scene:
    """Write 2 to 6 digits into random cells, at most two in a row, each tilted and off centre."""
    grid = np.full((ROWS, COLUMNS), EMPTY, dtype=np.int64)
    pixels = rng.normal(_PAPER_LEVEL, _PAPER_NOISE, (SCENE_PIXELS, SCENE_PIXELS))
    for row, column in _choose_cells(rng):
        index = int(rng.integers(len(pool.values)))
        grid[row, column] = pool.values[index]
        _write(pixels, pool.ink[index], row * CELL_PIXELS, column * CELL_PIXELS, rng)
    return Scene(np.clip(np.round(pixels), 0, 255).astype(np.uint8), grid)


def _choose_cells(rng: np.random.Generator) -> list[tuple[int, int]]:
    count = int(rng.integers(_DIGITS_PER_SCENE[0], _DIGITS_PER_SCENE[1] + 1))
    filled = [0] * ROWS
    cells: list[tuple[int, int]] = []
    for cell in rng.permutation(ROWS * COLUMNS):
        row, column = divmod(int(cell), COLUMNS)
        if len(cells) < count and filled[row] < _DIGITS_PER_ROW:
            filled[row] += 1
            cells.append((row, column))
    return cells


def _write(
    pixels: NDArray[np.float64],
    ink: NDArray[np.uint8],
    top: int,
    left: int,
    rng: np.random.Generator,
) -> None:
    size = int(rng.integers(_DIGIT_PIXELS[0], _DIGIT_PIXELS[1] + 1))
    tilt = float(rng.uniform(-_TILT_DEGREES, _TILT_DEGREES))
    level = float(rng.uniform(*_INK_LEVEL))
    top += int(rng.integers(CELL_PIXELS - size + 1))
    left += int(rng.integers(CELL_PIXELS - size + 1))
    digit = Image.fromarray(ink).resize((size, size), Image.Resampling.BICUBIC)
    digit = digit.rotate(tilt, Image.Resampling.BILINEAR)
    cover = np.asarray(digit, dtype=np.float64) / 255.0
    patch = pixels[top : top + size, left : left + size]
    patch += cover * (level - patch)
