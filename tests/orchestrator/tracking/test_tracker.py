import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.artifacts.manifest import Manifest
from orchestrator.durable import Store
from orchestrator.durable.failures import Failure, FailureKind
from orchestrator.registry import RegistryError
from orchestrator.tracking import MLflowTracker, TrackedRun, TrackingError
from orchestrator.tracking.records import Records
from orchestrator.tracking.shortcut import finished_runs

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

Commit = Callable[[str, dict[str, str]], Manifest]

HISTORY = {"points": [{"step": step, "loss": 1.0 / step, "lr": 0.1} for step in range(1, 7)]}


@pytest.fixture
def run() -> TrackedRun:
    return TrackedRun(
        run_id="digits-1234",
        name="digits",
        recipe={"finetune": {"steps": 6}, "workers": {"training": 2}},
        tags={"mlflow.source.git.commit": "abc"},
    )


@pytest.fixture
def track(uri: str, store: Store, run: TrackedRun) -> Callable[[], MLflowTracker]:
    return lambda: MLflowTracker(uri, "demo", run=run, store=store, tell=pytest.fail)


Track = Callable[[], MLflowTracker]


def runs(uri: str) -> dict[str, Run]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    named = {run.data.tags["gammaray.step"]: run for run in found}
    assert len(named) == len(found), "a run appears twice"
    return named


def steps(uri: str, run: Run, key: str) -> list[int]:
    return [metric.step for metric in MlflowClient(uri).get_metric_history(run.info.run_id, key)]


def test_a_run_is_a_parent_with_a_child_per_step(track: Track, uri: str, commit: Commit) -> None:
    tracker = track()
    tracker.step_started("finetune-mod", 1, ("new",))
    tracker.metrics("finetune-mod", 1, {"loss": 0.5, "tokens@s": 10.0})
    tracker.step_finished("finetune-mod", commit("finetune-mod", {"model.bin": "weights"}))
    tracker.figures({"accuracy": 0.9})
    assert not tracker.close("FINISHED", timeout_s=300.0)

    parent, child = runs(uri)["(run)"], runs(uri)["finetune-mod"]
    assert parent.info.status == child.info.status == "FINISHED"
    assert parent.data.params == {"finetune.steps": "6", "workers.training": "2"}
    assert parent.data.metrics == {"accuracy": 0.9}
    assert parent.data.tags["mlflow.source.git.commit"] == "abc"
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["gammaray.input.data"] == "d" * 64
    assert child.data.metrics == {"loss": 0.5, "tokens_s": 10.0, "seconds": 1.5}
    assert parent.data.tags["gammaray.digest.finetune-mod"] == child.data.tags["gammaray.digest"]


def test_a_step_names_the_dataset_that_it_read_once(
    track: Track, uri: str, store: Store, commit: Commit
) -> None:
    manifest = commit("finetune-mod", {"model.bin": "weights"})
    for _ in range(2):
        tracker = track()
        tracker.step_started("finetune-mod", 1, ("new",))
        tracker.step_finished("finetune-mod", manifest)
        tracker.close("KILLED", timeout_s=300.0)
    run_id = runs(uri)["finetune-mod"].info.run_id
    (read,) = MlflowClient(uri).get_run(run_id).inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("digits", "d" * 36)
    assert json.loads(read.dataset.source) == {"url": store.url, "digest": "d" * 64}
    assert [tag.value for tag in read.tags] == ["finetune-mod"]


def test_a_resumed_run_writes_into_the_same_runs_and_no_point_twice(
    track: Track, uri: str, commit: Commit
) -> None:
    ids: set[frozenset[str]] = set()
    for last in (2, 3, 5):
        tracker = track()
        tracker.step_started("finetune-mod", 1, ("new",))
        for step in range(1, last + 1):
            tracker.metrics("finetune-mod", step, {"loss": 1.0 / step})
        tracker.close("KILLED", timeout_s=300.0)
        ids.add(frozenset(run.info.run_id for run in runs(uri).values()))
        assert {run.info.status for run in runs(uri).values()} == {"KILLED"}

    tracker = track()
    tracker.step_started("finetune-mod", 1, ("continues",))
    tracker.step_finished("finetune-mod", commit("f", {"history.json": json.dumps(HISTORY)}))
    tracker.close("FINISHED", timeout_s=300.0)
    ids.add(frozenset(run.info.run_id for run in runs(uri).values()))

    assert len(ids) == 1
    assert {run.info.status for run in runs(uri).values()} == {"FINISHED"}
    assert steps(uri, runs(uri)["finetune-mod"], "loss") == [1, 2, 3, 4, 5, 6]
    assert steps(uri, runs(uri)["finetune-mod"], "lr") == [1, 2, 3, 4, 5, 6]


def test_a_request_whose_answer_was_lost_is_repeated_and_no_point_appears_twice(
    uri: str, store: Store, run: TrackedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_batch = MlflowClient.log_batch
    told: list[str] = []

    def lose_first_answer(client: MlflowClient, run_id: str, **batch: Any) -> None:
        log_batch(client, run_id, **batch)
        if "metrics" in batch and not told:
            raise ConnectionError("the answer was lost")

    monkeypatch.setattr(MlflowClient, "log_batch", lose_first_answer)
    tracker = MLflowTracker(uri, "demo", run=run, store=store, tell=told.append)
    tracker.step_started("align", 1, ())
    tracker.metrics("align", 1, {"loss": 0.5})
    assert not tracker.close("FINISHED", timeout_s=300.0)
    assert "does not answer" in told[0]
    assert steps(uri, runs(uri)["align"], "loss") == [1]


def test_the_state_of_a_machine_is_told_by_the_second_and_a_resumed_run_goes_on_with_it(
    track: Track, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    history = MlflowClient.get_metric_history

    def noting(client: MlflowClient, run_id: str, key: str) -> Any:
        read.append(key)
        return history(client, run_id, key)

    for second in (1_000, 1_010):
        monkeypatch.setattr(MlflowClient, "get_metric_history", noting)
        tracker = track()
        tracker.step_started("align", 1, ())
        tracker.metrics("align", 1, {"loss": 0.5})
        tracker.metrics("align", second, {"system/cpu_utilization_percentage": 50.0})
        assert not tracker.close("KILLED", timeout_s=300.0)
    monkeypatch.undo()
    assert steps(uri, runs(uri)["align"], "system/cpu_utilization_percentage") == [1_000, 1_010]
    assert set(read) == {"loss"}, "a history that cannot repeat was read"


def test_a_step_whose_end_was_not_recorded_is_completed_when_it_is_reused(
    track: Track, uri: str, commit: Commit
) -> None:
    manifest = commit("align", {"history.json": json.dumps(HISTORY)})
    tracker = track()
    tracker.step_started("align", 1, ())
    tracker.metrics("align", 1, {"loss": 1.0})
    tracker.close("KILLED", timeout_s=300.0)

    tracker = track()
    tracker.step_reused("align", manifest)
    tracker.close("FINISHED", timeout_s=300.0)

    child = runs(uri)["align"]
    assert child.info.status == "FINISHED"
    assert steps(uri, child, "loss") == [1, 2, 3, 4, 5, 6]
    assert child.data.tags["gammaray.digest"] == manifest.digest


def test_a_result_of_another_run_is_shown_once_in_this_one(
    track: Track, uri: str, commit: Commit
) -> None:
    manifest = commit("align", {})
    for _ in range(2):
        tracker = track()
        tracker.open()
        tracker.step_reused("align", manifest)
        tracker.close("FINISHED", timeout_s=300.0)
    child = runs(uri)["align"]
    assert child.data.tags["gammaray.run_id"] == "digits-1234"
    assert child.data.tags["gammaray.made.run_id"] == "another-run"


def test_a_run_with_nothing_to_do_does_not_open_mlflow(
    track: Track, uri: str, run: TrackedRun, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = commit("align", {"history.json": json.dumps(HISTORY)})
    tracker = track()
    tracker.step_reused("align", manifest)
    tracker.close("FINISHED", timeout_s=300.0)
    assert finished_runs(uri, run.run_id) == 2

    monkeypatch.setattr("orchestrator.tracking.tracker.Records", pytest.fail)
    tracker = track()
    tracker.step_reused("align", manifest)
    assert not tracker.close("FINISHED", timeout_s=300.0)


def test_a_step_that_runs_again_after_it_had_finished_replaces_its_child(
    track: Track, uri: str, commit: Commit
) -> None:
    for value in (1.0, 2.0):
        tracker = track()
        tracker.step_started("align", 1, ("redo",))
        tracker.metrics("align", 1, {"loss": value})
        tracker.step_finished("align", commit("align", {}))
        tracker.close("FINISHED", timeout_s=300.0)
    assert runs(uri)["align"].data.metrics == {"loss": 2.0, "seconds": 1.5}


def test_a_failed_step_is_failed_only_when_it_is_not_tried_again(track: Track, uri: str) -> None:
    failure = Failure(kind=FailureKind.SYSTEM, error_type="Lost", message="node gone")
    tracker = track()
    tracker.step_started("align", 1, ())
    tracker.step_failed("align", failure, 1.0)
    tracker.step_started("align", 2, ("retry",))
    tracker.step_failed("align", failure, None)
    tracker.close("FAILED", timeout_s=300.0)
    child = runs(uri)["align"]
    assert child.info.status == "FAILED"
    assert child.data.tags["gammaray.failure"] == "system: Lost: node gone"
    assert child.data.tags["gammaray.attempt"] == "2"


def test_points_that_arrive_after_the_end_of_their_step_are_kept(
    track: Track, uri: str, commit: Commit
) -> None:
    tracker = track()
    tracker.step_started("align", 1, ())
    tracker.step_finished("align", commit("align", {}))
    tracker.metrics("align", 7, {"loss": 0.1})
    tracker.close("FINISHED", timeout_s=300.0)
    assert runs(uri)["align"].data.metrics == {"loss": 0.1, "seconds": 1.5}
    assert runs(uri)["align"].info.status == "FINISHED"


def test_figures_of_a_result_become_metrics_tags_and_files(
    track: Track, uri: str, commit: Commit
) -> None:
    metrics = {"accuracy": 0.9, "skip": {"measured": {"skip_all": 0.34}}, "note": "text"}
    arank = {"profile": {"mean": [10.0, 3.0], "digest": "abc"}}
    texts = {
        "metrics.json": json.dumps(metrics),
        "arank.json": json.dumps(arank),
        "conversion.json": json.dumps({"selection": {"layers": [1]}}),
    }
    tracker = track()
    tracker.step_started("evaluate-mod", 1, ())
    tracker.step_finished("evaluate-mod", commit("evaluate-mod", texts))
    tracker.close("FINISHED", timeout_s=300.0)
    child = runs(uri)["evaluate-mod"]
    assert child.data.metrics["skip/measured/skip_all"] == 0.34
    assert steps(uri, child, "arank_by_layer") == [0, 1]
    assert child.data.tags["gammaray.mod_layers"] == "[1]"
    assert runs(uri)["(run)"].data.tags["gammaray.arank_digest"] == "abc"
    names = {file.path for file in MlflowClient(uri).list_artifacts(child.info.run_id)}
    assert names == texts.keys()


def test_a_parameter_that_a_resumed_run_changed_becomes_a_tag(
    track: Track, uri: str, store: Store, run: TrackedRun
) -> None:
    tracker = track()
    tracker.open()
    tracker.close("KILLED", timeout_s=300.0)
    changed = TrackedRun(run_id=run.run_id, name=run.name, recipe={"workers": {"training": 4}})
    tracker = MLflowTracker(uri, "demo", run=changed, store=store, tell=pytest.fail)
    tracker.open()
    tracker.close("FINISHED", timeout_s=300.0)
    parent = runs(uri)["(run)"]
    assert parent.data.params["workers.training"] == "2"
    assert parent.data.tags["gammaray.now.workers.training"] == "4"


def test_a_deleted_experiment_stops_the_run_before_its_first_step(track: Track, uri: str) -> None:
    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment("demo"))
    with pytest.raises(TrackingError, match=r"'demo' is deleted; restore it"):
        track().step_started("align", 1, ())


def test_an_mlflow_that_is_slow_to_open_does_not_hold_up_the_run(
    uri: str, store: Store, run: TrackedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_open = threading.Event()

    def slow(*arguments: str) -> Records:
        may_open.wait(60.0)
        return Records(*arguments)

    told: list[str] = []
    monkeypatch.setattr("orchestrator.tracking.tracker._CONNECT_S", 0.05)
    monkeypatch.setattr("orchestrator.tracking.tracker.Records", slow)
    tracker = MLflowTracker(uri, "demo", run=run, store=store, tell=told.append)
    tracker.step_started("align", 1, ())
    tracker.metrics("align", 1, {"loss": 0.5})
    may_open.set()
    assert not tracker.close("FINISHED", timeout_s=300.0)
    assert "slow to open" in told[0]
    assert runs(uri)["align"].data.metrics == {"loss": 0.5}


def test_a_server_that_is_away_stops_the_run_before_anything_starts(
    store: Store, run: TrackedRun
) -> None:
    with pytest.raises(TrackingError, match="cannot be reached"):
        MLflowTracker("http://127.0.0.1:1", "demo", run=run, store=store, tell=pytest.fail)


def test_a_trial_is_shown_below_its_sweep(uri: str, store: Store) -> None:
    def track(run_id: str, part_of: str | None = None) -> None:
        run = TrackedRun(run_id=run_id, name=run_id, recipe={}, part_of=part_of)
        tracker = MLflowTracker(uri, "demo", run=run, store=store, tell=pytest.fail)
        tracker.open()
        assert not tracker.close("FINISHED")

    track("plain")
    track("sweep")
    for _ in range(2):
        track("plain", part_of="sweep")
        track("trial", part_of="sweep")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    by_name = {run.data.tags["gammaray.run_id"]: run for run in found}
    assert len(found) == len(by_name) == 3
    sweep = by_name["sweep"].info.run_id
    assert by_name["plain"].data.tags["mlflow.parentRunId"] == sweep
    assert by_name["trial"].data.tags["mlflow.parentRunId"] == sweep


def test_a_check_that_fails_ends_the_run_at_its_first_step(
    uri: str, store: Store, run: TrackedRun
) -> None:
    def refuse(records: Records) -> None:
        raise RegistryError("digits-mod", f"no {records.experiment_id}")

    tracker = MLflowTracker(uri, "demo", run=run, store=store, tell=pytest.fail, check=refuse)
    with pytest.raises(RegistryError, match="'digits-mod': no 1"):
        tracker.step_started("data", 1, ("new",))
    assert runs(uri) == {}
