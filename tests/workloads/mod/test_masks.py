import torch

from workloads.mod.masks import additive, causal_mask, gathered_mask, seen_mask


def test_a_gathered_causal_mask_is_causal_in_the_original_positions():
    whole = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]
    columns = torch.tensor([[0, 2, 5], [1, 3, 4]])
    mask = gathered_mask(whole, columns, columns, None)
    assert torch.equal(mask, torch.ones(2, 1, 3, 3, dtype=torch.bool).tril())
    assert torch.equal(mask, seen_mask(columns, columns, None))


def test_a_family_mask_keeps_its_pattern_at_the_kept_cells():
    generator = torch.Generator().manual_seed(0)
    whole = torch.rand(2, 1, 6, 6, generator=generator) > 0.5
    columns = torch.tensor([[0, 2, 5], [1, 3, 4]])
    mask = gathered_mask(whole, columns, columns, None)
    for row in range(2):
        expected = whole[row, 0][columns[row]][:, columns[row]]
        assert torch.equal(mask[row, 0], expected)


def test_invalid_keys_are_seen_by_nobody_but_themselves():
    whole = torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
    columns, valid = torch.tensor([[1, 3, 0]]), torch.tensor([[True, True, False]])
    mask = gathered_mask(whole, columns, columns, valid)
    assert mask[0, 0, :, 2].tolist() == [False, False, True]
    added = gathered_mask(additive(whole, torch.float32), columns, columns, valid)
    assert torch.equal(added == 0, mask)


def test_new_queries_see_the_valid_keys_before_them():
    keys = torch.tensor([[0, 4, 2, 5, 6]])
    valid = torch.tensor([[True, True, False, True, True]])
    mask = seen_mask(torch.tensor([[5, 6]]), keys, valid)
    assert mask[0, 0].tolist() == [
        [True, True, False, True, False],
        [True, True, False, True, True],
    ]


def test_additive_masks_hide_with_the_least_number_of_the_type():
    mask = causal_mask(2, torch.bfloat16, torch.device("cpu"))
    assert mask[0, 0].tolist() == [[0.0, torch.finfo(torch.bfloat16).min], [0.0, 0.0]]
