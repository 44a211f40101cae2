"""Questions about a scene of digits, with their answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from workloads.data.scenes import CELL_NAMES, EMPTY, ROWS, Scene


@dataclass(frozen=True, slots=True)
class Question:
    """One question with the one answer that counts as right."""

    kind: str
    text: str
    answer: str


def ask(scene: Scene, kind: str, rng: np.random.Generator) -> Question:
    """Ask a question of one kind; cells are lettered in reading order, rows count from 1.

    Raises:
        KeyError: If ``kind`` is not one of ``QUESTION_KINDS``.
    """
    text, answer = _QUESTIONS[kind](scene, rng)
    return Question(kind, text, answer)


def _place(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    cell = int(rng.choice(np.flatnonzero(scene.grid != EMPTY)))
    return f"Which digit is in cell {CELL_NAMES[cell]}?", str(scene.grid.flat[cell])


def _count(scene: Scene, _rng: np.random.Generator) -> tuple[str, str]:
    return "How many digits are there?", str(np.count_nonzero(scene.grid != EMPTY))


def _presence(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    shown = np.unique(scene.grid[scene.grid != EMPTY])
    is_shown = bool(rng.integers(2))
    candidates = shown if is_shown else np.setdiff1d(np.arange(10), shown)
    return f"Is there a {rng.choice(candidates)}?", "yes" if is_shown else "no"


def _row_sum(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    row = int(rng.integers(ROWS))
    cells = scene.grid[row]
    return f"What is the sum of row {row + 1}?", str(cells[cells != EMPTY].sum())


_QUESTIONS: Mapping[str, Callable[[Scene, np.random.Generator], tuple[str, str]]] = {
    "place": _place,
    "count": _count,
    "presence": _presence,
    "row_sum": _row_sum,
}

QUESTION_KINDS = tuple(_QUESTIONS)
"""Which digit is in a cell, how many digits, is there one of a value, the sum of a row."""
