import numpy as np
import pytest

from workloads.arank import HEURISTICS, ARankError, ARankProfile, select_layers

MEANS = (30, 40, 22, 24, 10, 12, 11, 60)


def profile(means: tuple[int, ...] = MEANS, samples: int = 8) -> ARankProfile:
    """Ranks that are the same in every head and sample, so that nothing is uncertain."""
    ranks = np.tile(np.array(means)[None, :, None], (samples, 1, 2))
    return ARankProfile.from_ranks(ranks, ["all"] * samples, lengths=[100] * samples)


@pytest.mark.parametrize(
    ("arguments", "layers"),
    [
        ({"policy": "fraction"}, [1, 2, 3, 4, 5, 6, 7]),
        ({"policy": "fraction", "fraction": 0.5}, [2, 4, 5, 6]),
        ({"policy": "fraction", "fraction": 0.63}, [2, 3, 4, 5, 6]),
        ({"policy": "lowest", "count": 2}, [4, 6]),
        ({"policy": "threshold", "threshold": 24}, [2, 4, 5, 6]),
        ({"policy": "threshold", "relative_threshold": 0.2}, [4, 5, 6]),
        ({"policy": "threshold"}, [1, 2, 3, 4, 5, 6, 7]),
        ({"policy": "knee"}, [2, 3, 4, 5, 6]),
        ({"policy": "explicit", "layers": (6, 2)}, [2, 6]),
        ({"policy": "release"}, [3, 4, 5, 6]),
        ({"policy": "release", "heuristic": "p_mod_interleave"}, [1, 3, 5, 7]),
        ({"policy": "all"}, [1, 2, 3, 4, 5, 6, 7]),
        ({"policy": "all", "always_dense": ()}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"policy": "lowest", "count": 2, "always_dense": (0, 4)}, [5, 6]),
    ],
)
def test_each_policy_converts_its_layers(arguments: dict[str, object], layers: list[int]) -> None:
    selection = select_layers(profile(), **arguments)  # type: ignore[arg-type]
    assert list(selection) == layers
    assert selection.policy["policy"] == arguments["policy"]


def test_a_fraction_of_thirty_two_layers_is_the_papers_twenty_eight() -> None:
    assert len(select_layers(profile(tuple(range(32))))) == 28


def test_random_layers_depend_on_the_seed_alone() -> None:
    draws = {tuple(select_layers(profile(), "random", count=3, seed=seed)) for seed in range(9)}
    assert len(draws) > 3
    assert all(len(draw) == 3 and 0 not in draw for draw in draws)
    again = [select_layers(profile(), "random", count=3, seed=4).layers for _ in range(2)]
    assert again[0] == again[1]


@pytest.mark.parametrize("layers", [8, 32, 40])
@pytest.mark.parametrize("name", HEURISTICS)
def test_released_lists_stay_inside_the_model(name: str, layers: int) -> None:
    listed = list(HEURISTICS[name](layers))
    assert listed
    assert set(listed) <= set(range(layers))


def test_the_released_arank_list_of_a_7b_model_is_its_28_layers() -> None:
    assert list(HEURISTICS["gamma_arank"](32)) == list(range(3, 31))


def test_every_layer_gets_a_reason_with_its_rank() -> None:
    reasons = select_layers(profile(), "lowest", count=2).reasons
    assert len(reasons) == len(MEANS)
    assert reasons[0] == "dense: always dense by request (mean rank 30.00 ± 0.00)"
    assert reasons[1] == "dense: not among the 2 lowest (mean rank 40.00 ± 0.00)"
    assert reasons[4] == "MoD: among the 2 lowest (mean rank 10.00 ± 0.00)"


def test_a_clear_choice_carries_no_warning() -> None:
    assert select_layers(profile(), "lowest", count=2).warnings == ()


def test_a_tie_at_the_cut_is_told_and_broken_towards_the_deeper_layer() -> None:
    selection = select_layers(profile((9, 5, 5, 9)), "lowest", count=1)
    assert list(selection) == [2]
    assert any("layers 2 and 1 are tied" in warning for warning in selection.warnings)


def test_a_cut_within_the_standard_error_is_told() -> None:
    ranks = np.array([[[9], [4], [7], [20]], [[9], [8], [6], [20]]] * 4)
    noisy = ARankProfile.from_ranks(ranks, ["all"] * 8)
    selection = select_layers(noisy, "lowest", count=1)
    assert list(selection) == [1]
    assert "layers 1 (converted) and 2 (dense) differ by 0.50 ranks" in selection.warnings[0]


def test_lengths_that_move_all_layers_alike_make_no_cut_uncertain() -> None:
    lengths = np.arange(10, 90, 10)[:, None, None]
    longer = ARankProfile.from_ranks(lengths + np.array([[[0], [-3], [-1], [0]]]), ["all"] * 8)
    assert select_layers(longer, "lowest", count=1).warnings == ()


def test_an_order_that_half_the_samples_do_not_give_is_told() -> None:
    ranks = np.array([[[1], [2], [3], [4]]] * 3 + [[[1], [9], [6], [2]]] * 3)
    unstable = ARankProfile.from_ranks(ranks, ["all"] * 6)
    warnings = select_layers(unstable, "lowest", count=1).warnings
    assert any(
        "order is not stable" in warning and "first 3 of 6" in warning for warning in warnings
    )


def test_a_single_sample_is_told() -> None:
    warnings = select_layers(profile(samples=1), "lowest", count=1).warnings
    assert warnings == (
        "one sample was measured, so nothing is known about the spread; measure more",
    )


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"policy": "lowst"}, r"unknown policy 'lowst'; known are fraction"),
        ({"policy": "fraction", "fraction": 0.0}, r"fraction must be in \(0, 1\], got 0.0"),
        ({"policy": "lowest"}, r"count must be in \[1, 7\].*got None"),
        ({"policy": "lowest", "count": 8}, r"count must be in \[1, 7\].*got 8"),
        ({"policy": "explicit"}, "needs a list of layers"),
        ({"policy": "explicit", "layers": (0, 3)}, "layer 0 is listed.*always_dense"),
        ({"policy": "explicit", "layers": (3, 8)}, r"layer 8 is listed.*\[0, 7\]"),
        ({"policy": "release", "heuristic": "best"}, "unknown heuristic 'best'"),
        ({"policy": "threshold", "threshold": 5}, "'threshold' converts no layer.*60.0"),
        ({"policy": "threshold", "threshold": 5, "relative_threshold": 0.1}, "not both"),
        ({"policy": "threshold", "relative_threshold": 1.5}, r"in \(0, 1\], got 1.5"),
        ({"always_dense": (8,)}, r"always_dense must be in \[0, 7\], got 8"),
    ],
)
def test_rejects_what_decides_nothing(arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(ARankError, match=reason):
        select_layers(profile(), **arguments)  # type: ignore[arg-type]


def test_a_relative_threshold_needs_lengths() -> None:
    nameless = ARankProfile.from_ranks(np.ones((2, 3, 1), dtype=np.int64), ["all"] * 2)
    with pytest.raises(ARankError, match="sequence lengths"):
        select_layers(nameless, "threshold", relative_threshold=0.5)
