import math
import random

import pytest

from orchestrator.sweep.front import hypervolume, knee, pareto

GAMMA_MOD = [(19.2, 58.5), (16.3, 58.3), (12.6, 58.3), (9.3, 57.6), (6.5, 55.3)]
"""LLaVA-HR-7B at 0, 17, 34, 51 and 68 %: TFLOPs, accuracy (arXiv 2410.13859, table 1)."""


def test_the_front_holds_what_no_other_point_beats() -> None:
    points = [(0.1, 0.9), (0.5, 0.5), (0.5, 0.6), (0.9, 0.1), (0.5, 0.5), (0.2, 0.9)]
    assert pareto(points) == [0, 1, 3]


@pytest.mark.parametrize(
    ("points", "reference", "volume"),
    [
        ([], (1.0, 1.0), 0.0),
        ([(0.25,)], (1.0,), 0.75),
        ([(0.0, 0.0)], (1.0, 1.0), 1.0),
        ([(0.25, 0.5), (0.5, 0.25)], (1.0, 1.0), 0.75 * 0.5 + 0.5 * 0.25),
        ([(0.25, 0.5), (0.5, 0.75), (2.0, 0.0)], (1.0, 1.0), 0.375),
        ([(0.5, 0.5, 0.5)], (1.0, 1.0, 1.0), 0.125),
        ([(0.0, 0.5, 0.5), (0.5, 0.0, 0.5)], (1.0, 1.0, 1.0), 0.5 * 0.75),
        ([(0.5, 0.5, 0.0), (0.0, 0.0, 0.5)], (1.0, 1.0, 1.0), 0.5 + 0.125),
    ],
)
def test_the_hypervolume_is_exact(
    points: list[tuple[float, ...]], reference: tuple[float, ...], volume: float
) -> None:
    assert hypervolume(points, reference) == pytest.approx(volume)


def test_the_hypervolume_agrees_with_counting() -> None:
    source = random.Random(0)
    points = [tuple(source.random() for _ in range(3)) for _ in range(12)]
    cells = 24
    middles = [(index + 0.5) / cells for index in range(cells)]
    beaten = sum(
        any(x >= p[0] and y >= p[1] and z >= p[2] for p in points)
        for x in middles
        for y in middles
        for z in middles
    )
    assert hypervolume(points, (1.0, 1.0, 1.0)) == pytest.approx(beaten / cells**3, abs=0.02)


def test_the_knee_of_the_paper_is_at_51_per_cent() -> None:
    costs = [(tflops, 100 - accuracy) for tflops, accuracy in GAMMA_MOD]
    assert knee(costs) == 3


def test_the_knee_of_a_circle_is_in_its_middle() -> None:
    arc = [math.pi / 2 * step / 10 for step in range(11)]
    assert knee([(1 - math.cos(angle), 1 - math.sin(angle)) for angle in arc]) == 5


def test_a_single_point_is_the_knee() -> None:
    assert knee([(0.5, 0.5)]) == 0
