import pytest
import torch

from workloads.mod.routing import (
    routed_count,
    select_above,
    select_top,
    selection_of,
    slots_of,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("routable", "capacity", "rounding", "count"),
    [
        (21, 0.5, "ceil", 11),
        (21, 0.5, "floor", 10),
        (100, 0.29, "floor", 29),
        (100, 0.07, "ceil", 7),
        (576, 0.15, "floor", 86),
        (3, 0.1, "floor", 1),
        (0, 0.5, "ceil", 0),
        (7, 1.0, "floor", 7),
    ],
)
def test_counts_are_those_the_capacity_means(routable, capacity, rounding, count):
    assert routed_count(routable, capacity, rounding) == count


def test_top_tokens_come_in_sequence_order():
    ranked = torch.tensor([[0.1, 0.9, 0.3, 0.8]])
    assert select_top(ranked, 2, None, None).columns.tolist() == [[1, 3]]


def test_protected_tokens_outrank_all_and_padding_none():
    inf = torch.inf
    ranked = torch.tensor([[inf, 0.2, 0.9, inf], [inf, 0.5, -inf, -inf]])
    counts = [3, 2]
    selection = select_top(ranked, 3, *slots_of(counts, CPU))
    assert selection.columns[0].tolist() == [0, 2, 3]
    assert selection.columns[1, :2].tolist() == [0, 1]
    assert selection.valid.tolist() == [[True] * 3, [True, True, False]]
    assert selection.slots.tolist() == [0, 1, 2, 3, 4]


def test_fillers_are_other_tokens_of_the_row():
    ranked = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    counts = [12, 1, 5, 7, 2, 3]
    selection = select_top(ranked, 12, *slots_of(counts, CPU))
    for row, count in zip(selection.columns, counts, strict=True):
        assert sorted(row.tolist()) == list(range(12))
        assert row[:count].tolist() == sorted(row[:count].tolist())
    kept = selection.routed_mask(12)
    assert kept.sum(1).tolist() == counts
    for mask, scores, count in zip(kept, ranked, counts, strict=True):
        assert set(mask.nonzero()[:, 0].tolist()) == set(scores.topk(count).indices.tolist())


def test_equal_counts_need_no_marks():
    assert slots_of([3, 3], CPU) == (None, None)


def test_threshold_judges_each_routable_token_by_itself():
    scores = torch.tensor([[0.9, 0.1, 0.2, 0.6, 0.0]])
    routable = torch.tensor([[True, True, False, True, False]])
    real = torch.tensor([[True, True, True, True, False]])
    kept = select_above(scores, 0.5, routable, real, keep_one=True)
    assert kept.tolist() == [[True, False, True, True, False]]


def test_a_row_that_would_keep_nothing_keeps_its_best_real_token():
    scores = torch.tensor([[0.1, 0.3, 0.9], [0.1, 0.2, 0.3]])
    real = torch.tensor([[True, True, False], [True, True, True]])
    kept = select_above(scores, 0.95, real, real, keep_one=True)
    assert kept.tolist() == [[False, True, False], [False, False, True]]
    assert not select_above(scores, 0.95, real, real, keep_one=False).any()


def test_a_mask_packs_to_its_largest_row():
    kept = torch.tensor([[True, False, True], [False, True, False]])
    selection = selection_of(kept, [3, 3])
    assert selection.columns[0].tolist() == [0, 2]
    assert selection.columns[1, 0].item() == 1
    assert torch.equal(selection.routed_mask(3), kept)
    assert selection_of(torch.ones(2, 3, dtype=torch.bool), [3, 3]) is None
    assert selection_of(torch.zeros(2, 1, dtype=torch.bool), [1, 1]).columns.shape == (2, 0)
