"""Read-aloud lists: everything a scene shows, by name, in random order.

To answer a question the model has to bind a name in the text to a place in the image. Questions
alone teach this slowly: the answers' prior is learned first, and for a thousand steps nothing
else. A list asks for one such look-up after the other, each answered right behind its name, which
a single layer can learn; questions then only have to fetch what was looked up.
"""

import numpy as np

from workloads.data.scenes import CELL_NAMES, EMPTY, ROWS, Scene

Entry = tuple[str, str]
"""A name, written as questions write it, and what is to be read there."""

NOTHING = "-"


def lists_about(scene: Scene, rng: np.random.Generator) -> list[list[Entry]]:
    """The digit in every cell, whether each digit is there, and the sum of every row."""
    digits = scene.grid.ravel()
    shown = set(digits[digits != EMPTY].tolist())
    sums = np.where(scene.grid == EMPTY, 0, scene.grid).sum(axis=1)
    everything = [
        [
            (f" cell {name}", NOTHING if digit == EMPTY else str(digit))
            for name, digit in zip(CELL_NAMES, digits, strict=True)
        ],
        [(f" {digit}", "yes" if digit in shown else "no") for digit in range(10)],
        [(f" row {row + 1}", str(sums[row])) for row in range(ROWS)],
    ]
    return [[entries[i] for i in rng.permutation(len(entries))] for entries in everything]
