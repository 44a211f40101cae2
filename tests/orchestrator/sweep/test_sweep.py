"""Sweeps on a real Ray, over the digits recipe with few steps."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from mlflow import MlflowClient
from ray.util import placement_group_table

from orchestrator.artifacts.manifest import committed_for
from orchestrator.cli import ExitCode, main
from orchestrator.durable import open_store, read_status
from orchestrator.durable.states import RunState
from orchestrator.ownership.epochs import last_epoch
from orchestrator.sweep.journal import Journal
from tests.orchestrator.small_run import OVERRIDES, PATIENCE_S, driver
from tests.orchestrator.sweep.examples import RATIO

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore:The ``noload`` loader")]

GRID = {"space": {RATIO: {"choice": [0.4, 0.8]}}, "algorithm": "grid"}
ONE_EACH = {"Noticeboard", "_AutoscalingCoordinatorActor"}
"""Actors of which there may be one: that of this process, and Ray Train's own for the cluster."""
SHARED = ("data", "align", "arank", "finetune-dense", "evaluate-dense")


def section(*, changes: dict[str, Any] | None = None) -> str:
    return f"sweep={json.dumps({**GRID, **(changes or {})})}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all sweeps here, so that what they share is made once."""
    return tmp_path_factory.mktemp("store")


Sweeping = Callable[..., dict[str, Any]]


@pytest.fixture
def sweeping(folder: Path, local_ray: None, capsys: pytest.CaptureFixture[str]) -> Sweeping:
    def run(*overrides: str, code: ExitCode = ExitCode.DONE) -> dict[str, Any]:
        ended = main(["sweep", "digits", *OVERRIDES, *overrides, "--store", str(folder), "--json"])
        told = capsys.readouterr()
        assert ended == code, told.err
        # Ray may say something of its workers before or after the document.
        start = told.out.find('{\n "')
        found = json.JSONDecoder().raw_decode(told.out[start:])[0] if start >= 0 else {}
        return {"err": told.err, **found}

    return run


_OTHERS: set[str] = set()
"""Ids of the actors that tests before these have left."""


@pytest.fixture(scope="module", autouse=True)
def others(local_ray: None) -> None:
    _OTHERS.update(ray._private.state.actors())


def leftovers() -> tuple[list[str], list[str]]:
    """Placement groups and actors of trials and trainings that are still there."""
    groups = [g["name"] for g in placement_group_table().values() if g["state"] != "REMOVED"]
    known = ray._private.state.actors()
    ours = [actor for name, actor in known.items() if name not in _OTHERS]
    alive = [actor["ActorClassName"] for actor in ours if actor["State"] not in ("DEAD",)]
    for name in ONE_EACH & set(alive):
        alive.remove(name)
    return groups, alive


def nothing_is_left() -> bool:
    """Whether all is gone within a grace time: actors end a moment after they were told to."""
    deadline = time.monotonic() + 20
    while leftovers() != ([], []) and time.monotonic() < deadline:
        time.sleep(0.2)
    return leftovers() == ([], [])


def test_trials_share_what_they_have_in_common_and_leave_nothing(
    sweeping: Sweeping, folder: Path
) -> None:
    found = sweeping(section())
    trials = found["sweep"]["trials"]
    assert [(t["state"], t["values"][RATIO]) for t in trials] == [
        ("finished", 0.4),
        ("finished", 0.8),
    ]
    for each in trials:
        assert each["figures"]["tflops"] == pytest.approx(each["predicted"]["tflops"], abs=0.1)
    store = open_store(str(folder))
    assert {name: len(committed_for(store, name)) for name in SHARED} == dict.fromkeys(SHARED, 1)
    assert len(committed_for(store, "finetune-mod")) == 2
    assert Path(found["places"]["report"]).read_text().count("data-facts") >= 3
    assert nothing_is_left(), leftovers()


def test_the_same_sweep_again_reuses_everything(sweeping: Sweeping) -> None:
    first = sweeping(section())
    assert "search: reused" in first["err"]
    assert sweeping(section())["sweep"] == first["sweep"]


def test_a_plain_run_of_a_trials_values_finds_its_results(
    sweeping: Sweeping, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeping(section())
    command = ["plan", "digits", *OVERRIDES, f"{RATIO}=0.4", "--store", str(folder), "--json"]
    assert main(command) == ExitCode.DONE
    stages = json.loads(capsys.readouterr().out)["stages"]
    left = [stage["name"] for stage in stages if stage["action"] != "reuse"]
    assert left == ["register", "report"]


def test_the_tracker_shows_every_trial_once_below_the_sweep(
    sweeping: Sweeping, folder: Path
) -> None:
    found = sweeping(section())
    client = MlflowClient(found["places"]["MLflow"])
    experiment = client.get_experiment_by_name("gammaray")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = {
        run.data.tags["gammaray.run_id"]: run
        for run in runs
        if run.data.tags["gammaray.step"] == "(run)"
    }
    sweep = parents[found["sweep"]["sweep_id"]]
    for trial in found["sweep"]["trials"]:
        tags = parents[trial["run_id"]].data.tags
        assert tags["mlflow.parentRunId"] == sweep.info.run_id
        assert tags[f"gammaray.trial.{RATIO}"] == f"{trial['values'][RATIO]:.4g}"
    identities = [(r.data.tags["gammaray.run_id"], r.data.tags["gammaray.step"]) for r in runs]
    assert len(identities) == len(set(identities)), "a run appears twice"


@pytest.mark.slow
def test_more_trials_continue_the_sweep(sweeping: Sweeping) -> None:
    changes = {"space": {RATIO: {"choice": [0.4, 0.8, 0.6]}}}
    few = sweeping(section(changes={**changes, "trials": 2}))["sweep"]
    more = sweeping(section(changes={**changes, "trials": 3}))["sweep"]
    assert more["sweep_id"] == few["sweep_id"]
    assert more["trials"][:2] == few["trials"]
    assert more["trials"][2]["values"] == {RATIO: 0.6}


def test_values_that_cost_too_much_are_not_tried(sweeping: Sweeping) -> None:
    found = sweeping(section(changes={"constraints": ["tflops <= 0.8"]}))["sweep"]
    assert [trial["values"][RATIO] for trial in found["trials"]] == [0.4]
    assert found["refused"] == {"not tflops <= 0.8, as closed form has it": 1}


def test_a_space_in_which_everything_costs_too_much_ends_before_a_trial(
    sweeping: Sweeping,
) -> None:
    impossible = section(changes={"constraints": ["tflops <= 0.1"]})
    assert (
        "no values of the space may be tried" in sweeping(impossible, code=ExitCode.FAILED)["err"]
    )


def test_if_all_trials_fail_the_sweep_says_why(sweeping: Sweeping) -> None:
    nowhere = "mod.layers={policy: threshold, threshold: 1.0e-6}"
    told = sweeping(nowhere, section(), code=ExitCode.FAILED)["err"]
    assert "not one of 2 trials came to its end: trial 0 step 'convert' failed" in told
    assert nothing_is_left(), leftovers()


@pytest.mark.slow
def test_a_trial_that_learns_too_slowly_is_stopped_and_leaves_nothing(
    sweeping: Sweeping, folder: Path
) -> None:
    changes = {
        "space": {"finetune.learning_rate": {"choice": [1e-3, 1e-9]}},
        "objectives": ["accuracy"],
        "early_stopping": {"method": "asha", "grace": 2, "reduction": 2},
    }
    found = sweeping("finetune.steps=40", section(changes=changes))["sweep"]
    assert [trial["state"] for trial in found["trials"]] == ["finished", "stopped"]
    stopped = found["trials"][1]
    assert stopped["figures"]["step"] < 40
    status = read_status(open_store(str(folder)), stopped["run_id"])
    assert status.state is RunState.CANCELLED
    assert nothing_is_left(), leftovers()


@pytest.mark.slow
def test_hyperband_stops_within_a_bracket_and_lets_others_go_on(sweeping: Sweeping) -> None:
    changes = {
        # The first and the third are compared early, the second late.
        "space": {"finetune.learning_rate": {"choice": [1e-9, 1e-8, 0.3]}},
        "objectives": ["accuracy"],
        "early_stopping": {"method": "hyperband", "grace": 15, "reduction": 2},
    }
    trials = sweeping("finetune.steps=40", section(changes=changes))["sweep"]["trials"]
    assert [trial["state"] for trial in trials] == ["finished", "finished", "stopped"]
    assert trials[2]["figures"]["step"] < 30
    assert nothing_is_left(), leftovers()


@pytest.mark.slow
def test_the_winner_is_run_with_the_full_budget_and_registered(sweeping: Sweeping) -> None:
    changes = {"proxy": {"steps": 3, "questions": 10}, "objectives": ["tflops"], "retrain": True}
    found = sweeping(section(changes=changes))
    assert found["sweep"]["winner"] == 0
    assert found["retrained"]["registration"]["name"] == "digits-mod"
    assert found["retrained"]["run_id"] != found["sweep"]["trials"][0]["run_id"]
    client = MlflowClient(found["places"]["MLflow"])
    version = client.get_model_version_by_alias("digits-mod", "candidate")
    assert str(version.version) == found["retrained"]["registration"]["version"]


@pytest.mark.slow
def test_a_sweep_whose_driver_and_then_a_trial_was_killed_goes_on(
    sweeping: Sweeping, folder: Path, tmp_path: Path
) -> None:
    sweeping(section())
    with driver(tmp_path, section(), verb="sweep") as run:
        assert run.wait_for("search: trial 0:"), "\n".join(run.said)
        run.wait_for_checkpoint()
        run.kill()
    store = open_store(str(tmp_path))
    (sweep_id,) = {path.split("/")[1] for path in store.list("runs") if "-sweep-" in path}
    before = Journal(store, sweep_id).trials
    assert [trial.state for trial in before] == ["finished", "running"]
    with driver(tmp_path, section(), verb="sweep") as run:
        wait_for(lambda: last_epoch(store, before[1].run_id) == 2)
        for process in trial_processes(run.process.pid):
            process.kill()
        assert run.finish() == ExitCode.DONE, "\n".join(run.said)
    after = Journal(store, sweep_id).trials
    assert after[0] == before[0]
    assert after[1].state == "finished"
    assert [last_epoch(store, trial.run_id) for trial in after] == [1, 3]
    undisturbed = {m.digest for m in committed_for(open_store(str(folder)), "finetune-mod")}
    assert {m.digest for m in committed_for(store, "finetune-mod")} <= undisturbed


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def trial_processes(driver_pid: int) -> list[psutil.Process]:
    """The actors of trials, which Ray names after their class."""
    below = psutil.Process(driver_pid).children(recursive=True)
    return [each for each in below if "ray::Trial" in " ".join(each.cmdline())]
