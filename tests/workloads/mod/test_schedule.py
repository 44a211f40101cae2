import pytest

from workloads.mod.schedule import decay_schedule, retention


def test_32_layers_keep_the_mean_share_that_the_paper_states_for_its_cache():
    shares = decay_schedule(32)
    assert sorted(shares) == list(range(8, 32))
    dense = 32 - len(shares)
    assert (dense + sum(shares.values())) / 32 == pytest.approx(0.5375, abs=5e-5)


@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize("num_layers", [2, 8, 24, 40])
def test_decay_falls_from_first_to_last_layer_at_any_depth(shape, num_layers):
    shares = [retention(i, num_layers, shape=shape, mean=0.5) for i in range(num_layers)]
    assert shares[0] == pytest.approx(1.0)
    assert shares[-1] == pytest.approx(0.0, abs=1e-12)
    assert shares == sorted(shares, reverse=True)


def test_bounds_keep_early_layers_dense_and_late_ones_alive():
    shares = decay_schedule(8, max_ratio=0.6, min_ratio=0.3)
    assert min(shares) == 4
    assert all(0.3 <= share <= 0.6 for share in shares.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layers": 1}, "num_layers must be 2 or more.*got 1"),
        ({"num_layers": 8, "shape": "step"}, "shape must be 'cosine' or 'linear', got 'step'"),
        ({"num_layers": 8, "min_ratio": 0.9}, "min_ratio and max_ratio.*min_ratio=0.9"),
        ({"num_layers": 8, "max_ratio": 1.5}, "min_ratio and max_ratio.*max_ratio=1.5"),
    ],
)
def test_rejects_what_is_no_schedule(arguments, message):
    with pytest.raises(ValueError, match=message):
        decay_schedule(**arguments)
