from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workloads.arank import RankOptions, map_ranks, rank
from workloads.arank.inertia import EPS32, certified_rank

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "arank.npz")
ROWS = 200


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_singular_values(values: Tensor, seed: int) -> Tensor:
    """A float32 matrix whose singular values are ``values`` before it is rounded."""
    sides = [
        torch.linalg.qr(torch.randn(len(values), len(values), generator=generator(seed + side)))[0]
        for side in (0, 1)
    ]
    return (sides[0].double() * values @ sides[1].double().T).float()


def attention(rows: int, sharpness: float, sink: float, seed: int) -> Tensor:
    """A causal map whose rows leave the share ``sink`` to the first token."""
    points = torch.randn(rows, 8, generator=generator(seed))
    logits = (points @ points.T * sharpness).masked_fill(
        torch.ones(rows, rows).triu(1).bool(), -torch.inf
    )
    attended = logits.softmax(-1) * (1 - sink)
    attended[:, 0] += sink
    return attended


def certified(matrix: Tensor) -> int | None:
    is_lower = matrix.shape[0] >= matrix.shape[1] and not matrix.triu(1).any()
    return certified_rank(matrix, max(matrix.shape) * EPS32, is_lower=is_lower)


def released(matrix: Tensor) -> int:
    return int(torch.linalg.matrix_rank(matrix))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, ROWS), st.integers(0, 2**20))
def test_matrices_of_a_known_rank_have_it(wanted: int, seed: int) -> None:
    values = torch.zeros(ROWS, dtype=torch.float64)
    values[:wanted] = torch.rand(wanted, generator=generator(seed), dtype=torch.float64) + 0.1
    values[: min(wanted, 1)] = 2.0
    assert certified(with_singular_values(values, seed)) == wanted


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.floats(0.05, 8.0), st.floats(0.0, 0.999), st.integers(0, 2**20))
def test_attention_maps_have_the_rank_of_the_release_or_none(
    sharpness: float, sink: float, seed: int
) -> None:
    matrix = attention(ROWS, sharpness, sink, seed).tril(-1)
    assert certified(matrix) in (None, released(matrix))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.floats(1e-5, 0.3), st.integers(1, ROWS - 1), st.integers(0, 2**20))
def test_singular_values_beside_the_tolerance_are_never_counted_wrong(
    spread: float, large: int, seed: int
) -> None:
    values = ROWS * EPS32 * (1 + spread * torch.randn(ROWS, generator=generator(seed)).double())
    values[:large] = 1.0
    matrix = with_singular_values(values.abs(), seed)
    assert certified(matrix) in (None, released(matrix))


def test_a_singular_value_at_the_tolerance_cannot_be_certified() -> None:
    values = torch.full((ROWS,), 1e-9, dtype=torch.float64)
    values[0], values[1] = 1.0, ROWS * EPS32
    assert certified(with_singular_values(values, 0)) is None


@pytest.mark.parametrize("shape", [(240, 200), (200, 240)])
def test_rectangular_blocks_are_ranked_too(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape[0], 30, generator=generator(0)) @ torch.randn(30, shape[1])
    assert certified(matrix) == released(matrix) == 30


def test_a_matrix_of_zeros_has_rank_zero() -> None:
    assert certified(torch.zeros(ROWS, ROWS)) == 0


def test_a_map_in_which_every_token_attends_to_the_one_before_is_full() -> None:
    assert certified(torch.eye(ROWS).roll(1, 0).tril(-1)) == ROWS - 1


def test_goldens_are_certified_with_the_integers_of_the_release() -> None:
    maps = torch.from_numpy(GOLDEN["attentions"]).flatten(0, 1).tril(-1)
    ranks = [certified(matrix) for matrix in maps]
    known = GOLDEN["rank_per_head"].flatten().tolist()
    assert all(found in (None, rank) for found, rank in zip(ranks, known, strict=True))
    assert sum(found is not None for found in ranks) > len(ranks) / 2


def test_large_maps_are_certified_and_undecided_ones_left_to_the_release(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decided: list[bool] = []

    def recorded(matrix: Tensor, relative: float, **others: Any) -> int | None:
        found = certified_rank(matrix, relative, **others)
        decided.append(found is not None)
        return found

    monkeypatch.setattr(rank, "certified_rank", recorded)
    at_the_tolerance = torch.zeros(400, 400)
    at_the_tolerance[1, 0], at_the_tolerance[3, 2] = 1.0, 400 * EPS32
    maps = torch.stack([attention(400, 0.5, 0.5, 0), attention(400, 8.0, 0.0, 1), at_the_tolerance])
    assert map_ranks(maps).tolist() == [released(one.tril(-1)) for one in maps]
    assert sorted(decided) == [False, True, True]


def test_a_coarse_tolerance_is_certified_as_well() -> None:
    maps = attention(400, 2.0, 0.0, 0)
    expected = torch.linalg.matrix_rank(maps.tril(-1), rtol=0.05)
    assert map_ranks(maps, RankOptions(tolerance=0.05)) == expected


def test_any_number_of_threads_gives_the_same_ranks() -> None:
    maps = torch.stack([attention(48, 1.0, 0.1, seed) for seed in range(5)])
    threads = torch.get_num_threads()
    alone = map_ranks(maps)
    try:
        torch.set_num_threads(3)
        assert map_ranks(maps).equal(alone)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
