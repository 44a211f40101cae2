import numpy as np
import pytest

from workloads.arank import ARankError, ARankProfile, capacities_by_rank


def profile(*means: int) -> ARankProfile:
    return ARankProfile.from_ranks(np.tile(np.array(means)[:, None], (3, 1, 2)), ["all"] * 3)


def test_capacities_are_proportional_to_rank_and_keep_the_mean() -> None:
    capacities = capacities_by_rank(profile(9, 10, 20, 30), [1, 2, 3], 0.4)
    np.testing.assert_allclose(capacities, (0.2, 0.4, 0.6))


def test_what_a_full_layer_cannot_take_goes_to_the_others_in_proportion() -> None:
    capacities = capacities_by_rank(profile(10, 20, 300), [0, 1, 2], 0.5)
    np.testing.assert_allclose(capacities, (0.5 / 3, 1 / 3, 1.0))


def test_a_whole_budget_computes_everything() -> None:
    assert capacities_by_rank(profile(1, 2, 3), [0, 2], 1.0) == (1.0, 1.0)


@pytest.mark.parametrize("budget", [0.0, 1.5])
def test_rejects_a_budget_out_of_range(budget: float) -> None:
    with pytest.raises(ARankError, match=rf"in \(0, 1\], got {budget}"):
        capacities_by_rank(profile(1, 2), [0], budget)


def test_rejects_a_layer_of_rank_zero() -> None:
    with pytest.raises(ARankError, match="layer 1: its ARank is 0"):
        capacities_by_rank(profile(4, 0), [0, 1], 0.5)
