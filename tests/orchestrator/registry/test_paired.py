import numpy as np
import pytest

from orchestrator.registry.paired import paired_difference


def test_the_mean_is_the_difference_of_the_accuracies() -> None:
    found = paired_difference(
        [True, True, False, True], [True, False, False, False], confidence=0.9
    )
    assert found.mean == pytest.approx(0.75 - 0.25)
    assert found.questions == 4
    assert found.low <= found.mean <= found.high


def test_the_same_answers_differ_by_nothing_for_sure() -> None:
    found = paired_difference(
        [True] * 90 + [False] * 10, [True] * 90 + [False] * 10, confidence=0.95
    )
    assert (found.low, found.mean, found.high) == (0.0, 0.0, 0.0)


def test_drawing_counts_gives_the_interval_of_drawing_questions() -> None:
    generator = np.random.default_rng(1)
    correct, other = generator.random(300) < 0.9, generator.random(300) < 0.93
    found = paired_difference(list(correct), list(other), confidence=0.95, resamples=20_000)
    difference = correct.astype(int) - other.astype(int)
    drawn = generator.integers(300, size=(20_000, 300))
    low, high = np.quantile(difference[drawn].mean(axis=1), [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.004)
    assert found.high == pytest.approx(high, abs=0.004)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    truth, held = 0.02, 0
    for seed in range(300):
        draws = generator.choice([-1, 0, 1], size=500, p=[0.04, 0.90, 0.06])
        found = paired_difference(
            list(draws == 1), list(draws == -1), confidence=0.9, resamples=1000, seed=seed
        )
        held += found.low <= truth <= found.high
    assert 0.84 <= held / 300 <= 0.95


def test_the_same_seed_gives_the_same_interval() -> None:
    answers = [True] * 60 + [False] * 40
    intervals = {
        paired_difference(answers, answers[::-1], confidence=0.95, seed=seed) for seed in (3, 3)
    }
    assert len(intervals) == 1


@pytest.mark.parametrize(("correct", "other"), [([], []), ([True], [True, False])])
def test_answers_that_do_not_pair_are_refused(correct: list[bool], other: list[bool]) -> None:
    with pytest.raises(ValueError, match="answers of both models to the same questions"):
        paired_difference(correct, other, confidence=0.95)
