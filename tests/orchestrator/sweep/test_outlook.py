import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import ExitCode, main
from orchestrator.durable import InProcessExecutor, Runner, open_store
from orchestrator.launch import prepare
from orchestrator.sweep.forecast import Outlook
from orchestrator.sweep.journal import Journal
from orchestrator.sweep.launching import sweep_launch
from orchestrator.sweep.outlook import outlook
from tests.orchestrator.small_run import OVERRIDES
from tests.orchestrator.sweep.examples import RATIO, UNIFORM, figures

GRID = {RATIO: {"choice": [0.4, 0.8, 0.6]}}
TWO_CPUS = {"CPU": 2.0}


def given(space: dict[str, Any], **section: Any) -> list[str]:
    return [*OVERRIDES, f"sweep={json.dumps({'space': space, **section})}"]


def looking(folder: Path, space: dict[str, Any], **section: Any) -> Outlook:
    return outlook(prepare("digits", given(space, **section), str(folder)), TWO_CPUS)


def results(found: Outlook) -> dict[str, tuple[int, int]]:
    return {stage.name: (stage.results, stage.trials) for stage in found.stages}


def test_what_trials_share_is_made_once(tmp_path: Path) -> None:
    found = looking(tmp_path, GRID, algorithm="grid")
    shared = ("data", "align", "arank", "finetune-dense", "evaluate-dense")
    own = ("convert", "finetune-mod", "evaluate-mod", "efficiency")
    assert results(found) == {**dict.fromkeys(shared, (1, 3)), **dict.fromkeys(own, (3, 3))}
    assert {stage.made for stage in found.stages} == {"once for all", "once per trial"}
    assert not any(stage.reused for stage in found.stages)


def test_a_searched_learning_rate_makes_a_dense_twin_for_each(tmp_path: Path) -> None:
    space = {**GRID, "finetune.learning_rate": {"choice": [1e-3, 1e-4]}}
    found = looking(tmp_path, space, algorithm="grid")
    assert len(found.trials) == 6
    assert results(found)["finetune-dense"] == (2, 6)
    (twin,) = [stage for stage in found.stages if stage.name == "finetune-dense"]
    assert twin.made == "2 times for 6 trials"


def test_a_method_that_reads_no_ranks_measures_none(tmp_path: Path) -> None:
    methods = [{"method": "gamma", "capacity_ratio": 0.6}, {"method": "p_mod"}]
    found = looking(tmp_path, {"mod": {"choice": methods}}, algorithm="grid")
    assert results(found)["arank"] == (1, 1)


def test_a_grid_may_have_fewer_points_than_trials_are_wanted(tmp_path: Path) -> None:
    found = looking(tmp_path, GRID, algorithm="grid", trials=16)
    assert (len(found.trials), found.at_most, found.looked_at) == (3, 3, 3)


def test_random_values_are_those_that_will_be_drawn(tmp_path: Path) -> None:
    few, more = (looking(tmp_path, UNIFORM, algorithm="random", trials=trials) for trials in (2, 4))
    assert more.trials[:2] == few.trials
    assert len({trial.run_id for trial in more.trials}) == 4


def test_trials_that_ended_are_counted_and_not_planned_again(tmp_path: Path) -> None:
    launch = prepare("digits", given(GRID, algorithm="grid"), str(tmp_path))
    journal = Journal(launch.store, sweep_launch(launch, {}).run_id)
    first, second, _ = outlook(launch, TWO_CPUS).trials
    journal.begin(first)
    journal.end(replace(first, state="finished", figures=figures(0.9, 0.6)))
    journal.begin(second)
    found = outlook(launch, TWO_CPUS)
    assert (found.ended, found.begun, len(found.trials)) == (1, 1, 3)


def test_brackets_tell_how_many_trials_are_compared_from_when_on(tmp_path: Path) -> None:
    early = {"method": "hyperband", "grace": 10, "reduction": 2}
    found = looking(
        tmp_path,
        UNIFORM,
        algorithm="random",
        trials=8,
        objectives=["accuracy"],
        proxy={"steps": 40},
        early_stopping=early,
    )
    assert list(found.comparisons) == [10, 20, 40]
    assert sum(found.comparisons.values()) == 8
    said = list(found.sentences())
    assert any(line.endswith("trials from step 20 of 40 on") for line in said)
    assert said[-1].endswith("trials never")


def test_closed_form_needs_to_have_seen_the_prompts(tmp_path: Path) -> None:
    bound = {"algorithm": "grid", "constraints": ["tflops <= 0.8"]}
    before = looking(tmp_path, GRID, **bound)
    assert not before.closed_form
    assert len(before.trials) == 3

    searching = sweep_launch(prepare("digits", given(GRID, **bound), str(tmp_path)), {})
    Runner(
        searching.run_id,
        [step for step in searching.steps if step.name != "search"],
        open_store(str(tmp_path)),
        start_executor=InProcessExecutor,
    ).run()
    after = looking(tmp_path, GRID, **bound)
    assert after.closed_form
    assert [trial.values[RATIO] for trial in after.trials] == [0.4, 0.6]
    assert after.refused == {"not tflops <= 0.8, as closed form has it": 1}
    assert after.stages[0].reused == 1


@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_plan_shows_the_sweep_of_a_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: list[str]
) -> None:
    command = ["plan", "digits", *given(GRID, algorithm="grid"), "--store", str(tmp_path)]
    assert main([*command, *flag]) == ExitCode.DONE
    told = capsys.readouterr().out
    if flag:
        assert [each["values"][RATIO] for each in json.loads(told)["sweep"]["trials"]] == [
            0.4,
            0.8,
            0.6,
        ]
    else:
        assert "once per trial" in told
        assert "trials: 3 of at most 3, 0 ended, 0 begun" in told
