from pathlib import Path

import pytest

from orchestrator.durable import Resources, Step
from orchestrator.errors import PreflightError
from orchestrator.launch import Launch, prepare
from orchestrator.sweep.launching import sweep_launch, trials_at_once
from tests.orchestrator.sweep.examples import UNIFORM, recipe_with, sweep_with


def launched(folder: Path, *overrides: str) -> Launch:
    return sweep_launch(prepare("digits", overrides, str(folder)), {"verb": "sweep"})


def test_the_same_recipe_is_the_same_sweep(tmp_path: Path) -> None:
    space = "sweep={space: {mod.capacity_ratio: {uniform: [0.2, 0.9]}}}"
    first = launched(tmp_path, space)
    assert first.run_id.startswith("digits-sweep-")
    assert launched(tmp_path, space, "sweep.trials=4", "workers.training=4").run_id == first.run_id
    assert launched(tmp_path, space, "sweep.seed=1").run_id != first.run_id
    assert launched(tmp_path, space, "seed=1").run_id != first.run_id


def test_it_makes_the_data_that_its_trials_use(tmp_path: Path) -> None:
    space = "sweep={space: {mod.capacity_ratio: {uniform: [0.2, 0.9]}}}"
    steps = {step.name: step for step in launched(tmp_path, space).steps}
    assert list(steps) == ["data", "prompts", "search"]
    plain = {step.name: step for step in prepare("digits", (), str(tmp_path)).steps}
    assert steps["data"] == plain["data"]


def test_a_recipe_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="has no section `sweep`"):
        launched(tmp_path)


@pytest.mark.parametrize(
    ("cluster", "trials"),
    [
        ({"CPU": 2.0}, 1),
        ({"CPU": 9.0}, 4),
        ({"CPU": 1.0}, 1),
        ({"CPU": 100.0}, 16),
    ],
)
def test_as_many_trials_run_at_once_as_have_room_for_their_widest_step(
    cluster: dict[str, float], trials: int
) -> None:
    steps = [
        Step(name="data", function="a:b"),
        Step(name="train", function="a:b", resources=Resources(cpus=0, worker_cpus=2)),
    ]
    assert trials_at_once(sweep_with(UNIFORM), steps, cluster) == trials


def test_gpus_and_the_recipe_bound_how_many_trials_run_at_once() -> None:
    train = Resources(cpus=0, worker_cpus=8, worker_gpus=8)
    steps = [Step(name="train", function="a:b", resources=train)]
    cluster = {"CPU": 640.0, "GPU": 24.0}
    assert trials_at_once(sweep_with(UNIFORM), steps, cluster) == 3
    assert trials_at_once(sweep_with(UNIFORM, max_concurrent=2), steps, cluster) == 2


def test_the_section_is_part_of_the_schema() -> None:
    assert "sweep" in type(recipe_with(UNIFORM)).model_json_schema()["properties"]
