from pathlib import Path

import numpy as np
import pytest
import torch

from workloads.arank import ARankError, RankOptions, map_ranks
from workloads.arank.rank import product_ranks

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "arank.npz")


def test_ranks_equal_the_release_rank_for_rank() -> None:
    ranks = map_ranks(torch.from_numpy(GOLDEN["attentions"]))
    assert ranks.dtype == torch.int64
    assert ranks.tolist() == GOLDEN["rank_per_head"].tolist()
    assert ranks.double().mean(dim=1).tolist() == GOLDEN["rank_mean"].tolist()


def test_half_precision_maps_have_the_ranks_the_release_found_in_them() -> None:
    maps = torch.from_numpy(GOLDEN["attentions"]).half()
    assert map_ranks(maps).tolist() == GOLDEN["rank_per_head_fp16"].tolist()


def test_synthetic_maps_have_the_ranks_of_the_release() -> None:
    ranks = map_ranks(torch.from_numpy(GOLDEN["synthetic"]))
    assert ranks.tolist() == GOLDEN["synthetic_rank"].tolist()


def test_the_diagonal_counts_when_asked_for() -> None:
    identity = torch.eye(7)[None]
    assert map_ranks(identity).tolist() == [0]
    assert map_ranks(identity, RankOptions(zero_diagonal=False)).tolist() == [7]


def test_a_coarser_tolerance_takes_small_singular_values_for_zero() -> None:
    maps = torch.zeros(5, 5)
    maps[1, 0], maps[2, 1] = 1.0, 1e-3
    assert map_ranks(maps).item() == 2
    assert map_ranks(maps, RankOptions(tolerance=0.01)).item() == 1


def test_a_product_of_queries_and_keys_is_ranked_without_forming_it() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(3, 40, 8), torch.randn(40, 8)
    key[:, 5:] = 0
    ranks = product_ranks(query, key, RankOptions(map="logits"))
    assert ranks.tolist() == torch.linalg.matrix_rank(query @ key.T).tolist() == [5, 5, 5]


@pytest.mark.parametrize(
    ("maps", "reason"),
    [
        (torch.zeros(2, 3, 4), r"\(2, 3, 4\)"),
        (torch.ones(1, 1), "at least two tokens.*got 1"),
        (torch.full((3, 3), torch.nan), "NaN"),
    ],
)
def test_rejects_what_has_no_rank(maps: torch.Tensor, reason: str) -> None:
    with pytest.raises(ARankError, match=reason):
        map_ranks(maps)


def test_rejects_options_it_does_not_know() -> None:
    with pytest.raises(ARankError, match=r"'mask'.*known are map"):
        RankOptions.from_json({"mask": "none"})
    with pytest.raises(ARankError, match=r"in \(0, 1\), got 2"):
        RankOptions(tolerance=2)
    with pytest.raises(ARankError, match="'softmax' or 'logits'"):
        RankOptions.from_json({"map": "softmaxed"})
