from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from orchestrator.search_space import EarlyStopping
from orchestrator.sweep.brackets import bracket_of, shares
from orchestrator.sweep.halving import Halving, halving
from tests.orchestrator.sweep.examples import trial

HYPERBAND = EarlyStopping(method="hyperband", grace=1, reduction=3)
ASHA = EarlyStopping(method="asha", grace=10, reduction=2)


def as_tune_sees(number: int) -> Any:
    return SimpleNamespace(trial_id=f"t{number}", config={"order": SimpleNamespace(number=number)})


def compared(scheduler: Halving, number: int, step: int, loss: float) -> str:
    result = {"step": step, "loss": loss}
    return scheduler.on_trial_result(None, as_tune_sees(number), result)


def test_brackets_get_the_shares_of_the_hyperband_papers_table() -> None:
    assert shares(HYPERBAND, 81) == (81, 34, 15, 8, 5)


def test_asha_is_one_bracket() -> None:
    assert shares(ASHA, 100) == (1,)


def test_every_bracket_has_had_its_share_at_every_number_as_nearly_as_can_be() -> None:
    parts = (9, 5, 3)
    order = [bracket_of(number, parts) for number in range(34)]
    assert order[:17] == order[17:]
    assert order[0] == 0
    for count in range(1, 18):
        for bracket, part in enumerate(parts):
            assert order[:count].count(bracket) == pytest.approx(part * count / 17, abs=1.0)
    assert [order[:17].count(bracket) for bracket in range(3)] == [9, 5, 3]


def test_a_trial_is_compared_only_within_its_bracket() -> None:
    early = EarlyStopping(method="hyperband", grace=10, reduction=2)
    scheduler = Halving(early, 20)
    parts = shares(early, 20)
    assert len(parts) == 2
    first = [number for number in range(6) if bracket_of(number, parts) == 0][:2]
    patient = next(number for number in range(6) if bracket_of(number, parts) == 1)
    for number in (*first, patient):
        scheduler.on_trial_add(None, as_tune_sees(number))
    assert compared(scheduler, first[0], 10, 1.0) == TrialScheduler.CONTINUE
    assert compared(scheduler, patient, 10, 9.0) == TrialScheduler.CONTINUE
    assert compared(scheduler, first[1], 10, 9.0) == TrialScheduler.STOP


def test_a_trial_at_its_last_step_is_not_stopped() -> None:
    scheduler = Halving(ASHA, 20)
    for number in (0, 1):
        scheduler.on_trial_add(None, as_tune_sees(number))
    assert compared(scheduler, 0, 20, 1.0) == TrialScheduler.CONTINUE
    assert compared(scheduler, 1, 20, 9.0) == TrialScheduler.CONTINUE


def test_losses_of_an_earlier_search_still_count() -> None:
    ended = trial(0, {}, state="finished", reports=((10, 1.0), (20, 0.5)))
    scheduler = halving(ASHA, 100, [ended])
    scheduler.on_trial_add(None, as_tune_sees(1))
    assert compared(scheduler, 1, 10, 2.0) == TrialScheduler.STOP
