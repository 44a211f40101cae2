import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import RecipeError
from orchestrator.recipe_file import load_recipe
from orchestrator.sweep.values import active, overrides, trial_recipe
from tests.orchestrator.sweep.examples import RATIO, UNIFORM, recipe_with, sweep_with

METHODS = {
    "mod": {
        "choice": [{"method": "gamma", "capacity_ratio": 0.6}, {"method": "p_mod"}],
    },
    RATIO: {"choice": [0.4, 0.8]},
    "mod.mean_retention": {"choice": [0.3, 0.5]},
}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "sweep.space: empty"),
        ({"mod.capacity_ration": {"choice": [0.5]}}, "did you mean 'mod.capacity_ratio'"),
        ({"finetune": {"learning_rat": {"choice": [1]}}}, "did you mean 'finetune.learning_rate'"),
        ({"workers.training": {"choice": [2]}}, "workers changes no result"),
        ({"mod.mean_retention": {"choice": [0.5]}}, "its section is of another kind"),
        ({RATIO: {"choice": [0.5, 1.5]}}, r"refuses 1\.5: mod\.capacity_ratio: .*less than"),
        ({RATIO: {"uniform": [0.0, 0.5]}}, r"refuses 0\.0: .*greater than"),
        ({RATIO: {"uniform": [0.9, 0.5]}}, "the low end must be below the high one"),
        ({RATIO: {"choice": []}}, "choice is empty"),
        ({RATIO: 0.5}, r"expected values to try, such as \{choice: .*got 0\.5"),
        ({RATIO: {"loguniform": [0.0, 0.5]}}, "numbers above 0"),
        ({RATIO: {"choice": [0.5], "uniform": [0.2, 0.5]}}, "expected one of choice, uniform"),
        ({RATIO: {"unifrom": [0.2, 0.5]}}, "unknown key; did you mean 'uniform'"),
        ({"mod.method": {"choice": ["gamma", "p_mod"]}}, r"mod: \{choice: \[\{...\}, \{...\}\]\}"),
    ],
)
def test_a_space_that_does_not_fit_is_refused_before_anything_starts(
    space: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_with(space)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"constraints": ["tflops < 0.6"]}, "expected METRIC <= NUMBER or METRIC >= NUMBER"),
        ({"constraints": ["speed <= 0.6"]}, "the metric one of accuracy, accuracy_drop, tflops"),
        ({"constraints": ["tflops <= 0"]}, "can never hold: tflops is between 0 and 1"),
        ({"constraints": ["accuracy >= 80"]}, "can never hold: accuracy is between 0 and 1"),
        ({"constraints": ["accuracy_drop <= -200"]}, "accuracy_drop is between -100 and 100"),
        (
            {"constraints": ["tflops <= 60 %", "TFLOPs >= 0.7"]},
            "tflops >= 0.7 and tflops <= 0.6 contradict each other",
        ),
        ({"algorithm": "grid"}, "a grid needs choice or int, mod.capacity_ratio has neither"),
        ({"early_stopping": "asha"}, r"set objectives to \[accuracy\]"),
        (
            {"early_stopping": {"method": "asha", "grace": 250}, "objectives": ["accuracy"]},
            "below the 250 steps",
        ),
        ({"proxy": {"steps": 0}}, "greater than or equal to 1"),
        ({"trails": 3}, "did you mean 'trials'"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_with(UNIFORM, **section)


def test_what_is_searched_cannot_be_set_by_the_proxy_too() -> None:
    with pytest.raises(RecipeError, match=r"finetune\.steps is searched and set by proxy"):
        recipe_with({"finetune.steps": {"choice": [10, 20]}}, proxy={"steps": 5})


def test_a_wrong_path_is_named_with_its_line(tmp_path: Path) -> None:
    recipe = load_recipe("digits").model_dump(mode="json", by_alias=True, exclude={"sweep"})
    lines = [f"{key}: {json.dumps(value)}" for key, value in recipe.items()]
    text = "\n".join([*lines, "sweep:", "  space:", "    mod.capacity: {choice: [0.5]}"])
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match="did you mean") as caught:
        load_recipe(str(path))
    assert caught.value.line == len(lines) + 3
    assert caught.value.key == "sweep.space.mod.capacity"


def test_nested_sections_mean_the_same_as_dotted_keys() -> None:
    nested = sweep_with({"mod": {"capacity_ratio": {"uniform": [0.2, 0.9]}}})
    assert nested == sweep_with(UNIFORM)


def test_a_plain_run_takes_no_notice_of_the_sweep() -> None:
    assert recipe_with(UNIFORM).identity() == load_recipe("digits").identity()


def test_a_trial_is_the_plain_run_of_its_values() -> None:
    recipe = recipe_with(UNIFORM)
    values = {RATIO: 0.4, "mod.layers.fraction": 0.5}
    plain = load_recipe("digits", overrides(values))
    assert trial_recipe(recipe, values).identity() == plain.identity()


def test_a_whole_section_is_put_in_before_what_is_below_it() -> None:
    recipe = recipe_with(METHODS)
    values = {RATIO: 0.4, "mod": {"method": "gamma", "capacity_ratio": 0.6}}
    found = trial_recipe(recipe, values)
    assert found.identity()["mod"]["capacity_ratio"] == 0.4
    assert load_recipe("digits", overrides(values)).identity() == found.identity()


def test_values_that_a_method_does_not_have_are_left_out() -> None:
    recipe = recipe_with(METHODS)
    drawn = {"mod": {"method": "p_mod"}, RATIO: 0.4, "mod.mean_retention": 0.3}
    assert active(recipe, drawn) == {"mod": {"method": "p_mod"}, "mod.mean_retention": 0.3}


def test_how_many_trials_there_are_makes_no_other_sweep() -> None:
    few = sweep_with(UNIFORM, trials=4, max_concurrent=2, retrain=True)
    assert few.identity() == sweep_with(UNIFORM).identity()
    assert sweep_with(UNIFORM, seed=1).identity() != few.identity()
