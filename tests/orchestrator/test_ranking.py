import numpy as np
import pytest

from orchestrator.ranking import Measured, Quarantined, Ranking, StopRule, Workforce
from workloads.arank import ARankError, RankOptions, spearman


def sample(*ranks: int) -> Measured:
    return Measured(id="s", task="all", tokens=9, ranks=np.array(ranks)[:, None])


def ranking(unchanged: int, **policy: object) -> Ranking:
    rule = StopRule(unchanged=unchanged, policy={"policy": "lowest", "count": 1, **policy})
    return Ranking(options=RankOptions(), stop=rule)


def test_it_settles_when_the_chosen_layers_have_stayed_the_same_for_so_many_samples() -> None:
    taken = ranking(unchanged=2)
    settled = []
    for ranks in ((9, 1, 5), (9, 9, 1), (9, 9, 1), (9, 9, 1)):
        taken.take(sample(*ranks))
        settled.append(taken.has_settled)
    assert settled == [False, False, False, True]


def test_a_policy_that_chooses_nothing_has_not_settled() -> None:
    taken = ranking(unchanged=1, policy="threshold", threshold=0.5)
    for _ in range(4):
        taken.take(sample(9, 1, 5))
    assert not taken.has_settled


def test_a_quarantined_sample_neither_counts_nor_settles() -> None:
    taken = ranking(unchanged=1)
    taken.take(sample(9, 1, 5))
    taken.take(Quarantined(id="bad", reason="too long"))
    assert not taken.has_settled
    assert taken.ids == ["s"]


def test_samples_that_are_all_bad_are_an_error_that_names_the_first() -> None:
    taken = Ranking(options=RankOptions())
    taken.take(Quarantined(id="bad", reason="too long"))
    with pytest.raises(ARankError, match=r"none of 1 samples.*'bad': too long"):
        _ = taken.profile


def test_the_stability_is_that_of_the_order_after_half_the_samples() -> None:
    taken = Ranking(options=RankOptions())
    assert taken.stability is None
    for ranks in ((9, 1, 5, 4), (3, 2, 8, 4), (5, 9, 1, 4), (2, 7, 8, 4), (6, 6, 1, 9)):
        taken.take(sample(*ranks))
    profile = taken.profile
    assert taken.stability == spearman(profile.first(2).mean, profile.mean)


def test_rejects_zero_workers() -> None:
    with pytest.raises(ARankError, match="workers must be at least 1, got 0"):
        Workforce(workers=0)
