import pytest
import torch
from transformers import DynamicCache, StaticCache

from tests.workloads.mod import tiny
from workloads.mod.cache import MoDCacheLayer, install


def states(batch, length, start=0.0):
    numbers = torch.arange(batch * length, dtype=torch.float32).view(batch, 1, length, 1) + start
    return numbers.expand(batch, 2, length, 4).clone()


def filled():
    """Two rows over a prompt of 6, which computed 0, 3, 5 and 2; then one token each."""
    layer = MoDCacheLayer()
    columns = torch.tensor([[0, 3, 5], [2, 0, 1]])
    valid = torch.tensor([[True, True, True], [True, False, False]])
    layer.extend(columns, valid, 6)
    layer.update(states(2, 3), states(2, 3))
    layer.extend(torch.tensor([[6], [6]]), None, 1)
    layer.update(states(2, 1, 100.0), states(2, 1, 100.0))
    return layer


def test_reports_the_sequence_it_saw_and_stores_what_was_computed():
    layer = filled()
    assert layer.get_seq_length() == 7
    assert layer.get_mask_sizes(1) == (8, 0)
    assert layer.keys.shape == (2, 2, 4, 4)
    assert layer.columns.tolist() == [[0, 3, 5, 6], [2, 0, 1, 6]]
    assert layer.valid.tolist() == [[True] * 4, [True, False, False, True]]
    assert layer.stored_lengths().tolist() == [[4], [2]]


def test_rows_that_agree_need_no_marks():
    layer = MoDCacheLayer()
    layer.extend(torch.tensor([[0, 2]]), None, 3)
    layer.update(states(1, 2), states(1, 2))
    layer.extend(torch.tensor([[3]]), None, 1)
    assert layer.valid is None
    assert layer.stored_lengths() == 3


def test_skipped_tokens_lengthen_the_sequence_alone():
    layer = filled()
    layer.skip(1)
    assert (layer.get_seq_length(), layer.keys.shape[2]) == (8, 4)


def test_rows_follow_beams_repeats_and_selections():
    layer = filled()
    layer.reorder_cache(torch.tensor([1, 1]))
    assert layer.columns.tolist() == [[2, 0, 1, 6]] * 2
    assert torch.equal(layer.keys[0], layer.keys[1])
    layer = filled()
    layer.batch_repeat_interleave(2)
    assert layer.valid.sum(1).tolist() == [4, 4, 2, 2]
    layer.batch_select_indices(torch.tensor([2]))
    assert layer.columns.tolist() == [[2, 0, 1, 6]]
    assert layer.keys.shape[0] == layer.values.shape[0] == layer.valid.shape[0] == 1


@pytest.mark.parametrize(("removed", "columns"), [(1, [0, 3, 5]), (2, [0, 3]), (4, [0])])
def test_crop_forgets_the_end_of_the_sequence(removed, columns):
    layer = filled()
    layer.crop(-removed)
    assert layer.get_seq_length() == 7 - removed
    assert layer.columns[0][layer.valid[0]].tolist() == columns if layer.valid is not None else True
    assert layer.keys.shape[2] == layer.columns.shape[1] == len(columns)


def test_crop_takes_a_count_to_remove_like_transformers():
    with pytest.raises(ValueError, match="got 3"):
        filled().crop(3)


def test_reset_forgets_everything():
    layer = filled()
    layer.reset()
    assert (layer.get_seq_length(), layer.is_empty, layer.valid) == (0, True, None)


def test_installs_beside_dense_layers_and_twice_is_once():
    for cache in (DynamicCache(), DynamicCache(config=tiny.llama_config())):
        install(cache, [1, 2])
        first = cache.layers[1]
        install(cache, [1, 2])
        assert cache.layers[1] is first
        assert [isinstance(layer, MoDCacheLayer) for layer in cache.layers[:3]] == [
            False,
            True,
            True,
        ]


def test_refuses_a_cache_of_another_kind_by_name():
    cache = StaticCache(config=tiny.llama_config(), max_cache_len=8)
    with pytest.raises(ValueError, match=r"holds a StaticLayer for layer 1.*DynamicCache"):
        install(cache, [1])


def test_refuses_a_cache_that_a_dense_model_filled_and_leaves_it():
    cache = DynamicCache(config=tiny.llama_config())
    cache.update(states(1, 2), states(1, 2), 2)
    with pytest.raises(ValueError, match="filled by a dense model in layer 2"):
        install(cache, [1, 2])
    assert not any(isinstance(layer, MoDCacheLayer) for layer in cache.layers)
