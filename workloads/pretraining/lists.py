"""Read-aloud lists: what every cell of a scene shows, by name, in random order.

To answer a question the model has to bind a name in the text to a place in the image. Questions
alone teach this slowly: the answers' prior is learned first, and for a thousand steps nothing
else. A list asks for one such look-up after the other, each answered right behind its name, which
a single layer can learn; questions then only have to fetch what was looked up.
"""

import numpy as np

from workloads.data.scenes import CELL_NAMES, EMPTY, Scene

Entry = tuple[str, str]
"""A name, written as questions write it, and what is to be read there."""

NOTHING = "-"


def cell_list(scene: Scene, rng: np.random.Generator) -> list[Entry]:
    """Every cell's name with its digit, or with ``NOTHING``."""
    digits = scene.grid.ravel()
    return [
        (f" cell {CELL_NAMES[cell]}", NOTHING if digits[cell] == EMPTY else str(digits[cell]))
        for cell in rng.permutation(digits.size)
    ]
