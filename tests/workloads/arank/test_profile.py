import json

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from workloads.arank import ARankError, ARankProfile, arank_profile, heat_map_svg
from workloads.arank.order import knee, spearman

RANKS = np.array(
    [
        [[8, 6], [2, 2], [5, 5]],
        [[8, 8], [3, 1], [4, 6]],
        [[9, 9], [1, 1], [6, 4]],
        [[8, 8], [2, 4], [5, 5]],
    ]
)


def profile(tasks: str = "aabb") -> ARankProfile:
    return ARankProfile.from_ranks(RANKS, list(tasks), lengths=[10, 12, 14, 12])


def test_the_mean_is_over_heads_and_samples() -> None:
    assert profile().mean.tolist() == [8.0, 2.0, 5.0]
    assert profile().per_head.tolist() == [[8.25, 7.75], [2.0, 2.0], [5.0, 5.0]]
    assert profile().mean_length == 12


def test_the_standard_error_is_over_samples() -> None:
    per_sample = RANKS.mean(axis=2)
    expected = per_sample.std(axis=0, ddof=1) / 2
    np.testing.assert_allclose(profile().stderr, expected)
    assert np.isnan(profile().first(1).stderr).all()


def test_tasks_are_told_apart_and_compared() -> None:
    assert profile().per_task["a"].tolist() == [7.5, 2.0, 5.0]
    assert profile().task_agreement == {"a": 1.0, "b": 1.0}
    assert profile().task_correlations == {"a": {"b": 1.0}, "b": {"a": 1.0}}
    assert profile("aaaa").task_agreement == {}


def test_stability_compares_the_order_of_few_samples_with_that_of_all() -> None:
    ranks = RANKS.copy()
    ranks[0, :, :] = [[1], [4], [5]]
    shaken = ARankProfile.from_ranks(ranks, ["a"] * 4)
    assert shaken.stability == {1: pytest.approx(-0.5), 2: pytest.approx(0.5)}


def test_the_digest_depends_on_every_integer_and_on_their_order() -> None:
    changed = RANKS.copy()
    changed[3, 2, 1] += 1
    others = [
        ARankProfile.from_ranks(changed, list("aabb"), [10, 12, 14, 12]),
        ARankProfile.from_ranks(RANKS[::-1], list("aabb"), [10, 12, 14, 12]),
        profile("abab"),
    ]
    assert len({profile().digest, *(other.digest for other in others)}) == 4
    assert profile().digest == profile().digest


def test_json_holds_no_value_that_json_does_not_know() -> None:
    text = json.dumps(profile().first(1).to_json(), allow_nan=False)
    assert json.loads(text)["stderr"] is None


def test_batches_merge_in_sample_order(llama: LlamaForCausalLM) -> None:
    ids = torch.randint(4, 96, (4, 16), generator=torch.Generator().manual_seed(0))
    one_by_one = arank_profile(llama, [{"input_ids": row[None]} for row in ids])
    together = arank_profile(llama, [{"input_ids": ids}])
    assert one_by_one.digest == together.digest
    assert one_by_one.lengths == (16,) * 4


def test_no_batches_are_an_error(llama: LlamaForCausalLM) -> None:
    with pytest.raises(ARankError, match="at least one batch"):
        arank_profile(llama, iter(()))


@pytest.mark.parametrize(
    ("ranks", "tasks", "reason"),
    [
        (RANKS[0], ["a"] * 3, r"\(samples, layers, heads\)"),
        (RANKS, ["a"] * 3, "4 samples, got 3"),
        (RANKS / 2, ["a"] * 4, "integers, got float64"),
    ],
)
def test_rejects_ranks_that_do_not_fit(ranks: np.ndarray, tasks: list[str], reason: str) -> None:
    with pytest.raises(ARankError, match=reason):
        ARankProfile.from_ranks(ranks, tasks)


def test_spearman_shares_the_places_of_ties() -> None:
    assert spearman(np.array([1.0, 2.0, 2.0, 3.0]), np.array([1.0, 5.0, 5.0, 9.0])) == 1.0
    assert spearman(np.array([1.0, 1.0]), np.array([1.0, 2.0])) is None


@pytest.mark.parametrize(
    ("values", "count"),
    [([1.0, 1.1, 1.2, 9.0], 3), ([1.0, 2.0, 3.0], 3), ([4.0, 4.0], 2), ([4.0, 4.0, 4.0], 3)],
)
def test_the_knee_is_where_a_sorted_profile_bends(values: list[float], count: int) -> None:
    assert knee(np.array(values)) == count


def test_the_heat_map_marks_converted_layers_and_is_equal_to_the_byte() -> None:
    picture = heat_map_svg(profile(), converted=(1,))
    assert picture == heat_map_svg(profile(), converted=(1,))
    assert picture.count("<rect") == 6
    assert "layer 1 · MoD" in picture
    assert "layer 0, head 1: 7.75" in picture
