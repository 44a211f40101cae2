from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.search_space import Sweep
from orchestrator.sweep.journal import TrialRecord
from orchestrator.sweep.sensitivity import sensitivities
from orchestrator.sweep.suggest import suggest
from tests.orchestrator.sweep.examples import (
    RATIO,
    UNIFORM,
    figures,
    finished,
    sweep_with,
    trial,
)

MIXED: dict[str, Any] = {
    **UNIFORM,
    "finetune.learning_rate": {"loguniform": [1e-4, 1e-2]},
    "arank.samples": {"int": [10, 20]},
    "mod.layers": {"choice": [{"policy": "all"}, {"policy": "fraction", "fraction": 0.5}]},
}


def drawn(sweep: Sweep, count: int, known: Sequence[TrialRecord] = ()) -> list[dict[str, Any]]:
    """Values of so many trials, each finished before the next; better with a low ratio."""
    trials = list(known)
    for number in range(len(trials), count):
        values = suggest(sweep, number, trials, dict)
        assert values is not None
        measured = figures(accuracy=1 - values[RATIO] / 2, tflops=0.5)
        trials.append(trial(number, values, state="finished", figures=measured))
    return [dict(each.values) for each in trials]


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
@pytest.mark.parametrize("objectives", [["accuracy"], ["accuracy", "tflops"]])
def test_a_sweep_that_goes_on_suggests_what_it_would_have_suggested(
    algorithm: str, objectives: list[str]
) -> None:
    sweep = sweep_with(MIXED, algorithm=algorithm, objectives=objectives)
    values = drawn(sweep, 12)
    measured = [figures(accuracy=1 - each[RATIO] / 2, tflops=0.5) for each in values]
    known = [
        trial(number, each, state="finished", figures=figure)
        for number, (each, figure) in enumerate(zip(values[:10], measured, strict=False))
    ]
    assert drawn(sweep, 12, known) == values


def test_values_are_of_the_space() -> None:
    for values in drawn(sweep_with(MIXED, algorithm="random"), 20):
        assert 0.2 <= values[RATIO] <= 0.9
        assert 1e-4 <= values["finetune.learning_rate"] <= 1e-2
        assert values["arank.samples"] in range(10, 21)
        assert values["mod.layers"] in ({"policy": "all"}, {"policy": "fraction", "fraction": 0.5})


def test_seeds_differ() -> None:
    first = drawn(sweep_with(UNIFORM, algorithm="random"), 3)
    assert drawn(sweep_with(UNIFORM, algorithm="random", seed=1), 3) != first


def test_tpe_learns_where_trials_are_good() -> None:
    sweep = sweep_with(UNIFORM, objectives=["accuracy"])
    late = [values[RATIO] for values in drawn(sweep, 30)[15:]]
    assert sum(late) / len(late) < 0.4


def test_a_grid_tries_every_combination_once_and_then_ends() -> None:
    space = {RATIO: {"choice": [0.4, 0.8]}, "arank.samples": {"int": [10, 11]}}
    sweep = sweep_with(space, algorithm="grid")
    tried: list[dict[str, Any]] = []

    def accept(values: dict[str, Any]) -> dict[str, Any] | None:
        return None if values in tried else values

    for number in range(4):
        values = suggest(sweep, number, [], accept)
        assert values is not None
        tried.append(values)
    assert [tuple(values.values()) for values in tried] == [
        (0.4, 10),
        (0.4, 11),
        (0.8, 10),
        (0.8, 11),
    ]
    assert suggest(sweep, 4, [], accept) is None


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_a_space_without_acceptable_values_is_used_up(algorithm: str) -> None:
    assert suggest(sweep_with(UNIFORM, algorithm=algorithm), 0, [], lambda values: None) is None


def test_trials_that_were_stopped_failed_or_still_run_are_taken_in() -> None:
    sweep = sweep_with(UNIFORM, objectives=["accuracy"])
    known = [
        trial(0, {RATIO: 0.3}, state="stopped", figures={"step": 50.0, "loss": 1.5}),
        trial(1, {RATIO: 0.4}, state="failed", reason="broken"),
        trial(2, {RATIO: 0.5}),
        *(finished(number, 0.2 + number / 20, 0.9, 0.6) for number in range(3, 13)),
    ]
    assert suggest(sweep, 13, known, dict) is not None


def test_what_matters_is_told_from_what_does_not() -> None:
    sweep = sweep_with({**UNIFORM, "finetune.learning_rate": {"uniform": [1e-4, 1e-2]}})
    values = drawn(sweep, 16)
    known = [
        trial(n, each, state="finished", figures=figures(1 - each[RATIO] / 2, each[RATIO]))
        for n, each in enumerate(values)
    ]
    first, second = sensitivities(sweep, known, "accuracy")
    assert (first.path, second.path) == (RATIO, "finetune.learning_rate")
    assert first.share > 0.8 > 0.2 > second.share
    assert first.correlation == pytest.approx(-1.0)


def test_too_few_trials_say_nothing_of_what_matters() -> None:
    known = [finished(n, 0.3 + n / 10, 0.9 - n / 100, 0.5) for n in range(3)]
    assert sensitivities(sweep_with(UNIFORM), known, "accuracy") == []
