import time
from pathlib import Path

import pytest

from orchestrator.durable import Retry, StepFailedError, read_status, schedule
from orchestrator.durable.failures import FailureKind
from orchestrator.durable.states import RunState, StepState
from orchestrator.ray_connection import on_ray
from tests.orchestrator.durable.conftest import quick_disk, steps, store
from tests.orchestrator.durable.fakes import Listener, Steps
from workloads.errors import DataError

__all__ = ["quick_disk", "steps", "store"]

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
ON_RAY = on_ray(lambda: None)


def test_a_chain_runs_on_ray_and_tells_what_happens(steps: Steps) -> None:
    heard = steps.run(steps.chain(rate=0.5), start_executor=ON_RAY).heard
    assert steps.ran() == ["a", "b", "c"]
    assert [line for line in heard if line.startswith("b")] == [
        "b started 1",
        "b 1/2 lines half",
        "b 3 {'loss': 0.5}",
        "b says written",
        "b finished",
    ]


def test_a_killed_worker_costs_one_attempt(steps: Steps) -> None:
    listener = steps.run([steps.step("a", "die_once")], start_executor=ON_RAY)
    assert listener.events_of("started", "failed", "finished") == [
        "a started 1",
        "a failed system retry 1.0",
        "a started 2",
        "a finished",
    ]
    (manifest,) = {path.split("/")[2] for path in steps.store.list("artifacts")}
    assert manifest.endswith("a002")


def test_a_worker_that_dies_in_a_batch_costs_no_step_that_was_committed(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "_TOGETHER_S", 60.0)  # however slow this machine is
    first = steps.step("first", "die_once_if_told")
    behind = [
        steps.step(f"s{n}", "die_once_if_told", inputs={"a": "first"}, params={"dies": n == 4})
        for n in range(9)
    ]
    listener = steps.run([first, *behind], start_executor=ON_RAY)
    failed = {line.split()[0] for line in listener.events_of("failed")}
    assert {"s4"} < failed, "the steps beside it shared its process"
    assert sorted(steps.ran()) == ["first", *(f"s{n}" for n in range(9))]


def test_a_chain_in_one_worker_that_dies_goes_on_behind_its_last_commit(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "_TOGETHER_S", 60.0)  # however slow this machine is
    chain = [
        steps.step(
            f"s{n}",
            "die_once_if_told",
            inputs={"before": f"s{n - 1}"} if n else {},
            params={"dies": n == 4},
        )
        for n in range(7)
    ]
    listener = steps.run(chain, start_executor=ON_RAY)
    assert steps.ran() == [f"s{n}" for n in range(7)]
    assert listener.events_of("failed") == ["s1 failed system retry 1.0"], "the first of its batch"
    assert {"s2 reused", "s3 reused"} < set(listener.heard)


def test_an_error_comes_back_as_it_was_raised(steps: Steps) -> None:
    with pytest.raises(StepFailedError, match="record 12: image is missing") as caught:
        steps.run([steps.step("a", "refuse_data")], start_executor=ON_RAY)
    assert isinstance(caught.value.__cause__, DataError)
    assert caught.value.__cause__.source == "train.json"
    assert "in refuse_data" in caught.value.traceback_text


def test_a_step_may_report_from_workers_of_its_own(steps: Steps) -> None:
    heard = steps.run([steps.step("a", "report_from_workers")], start_executor=ON_RAY).heard
    assert sorted(heard) == ["a finished", "a says from 0", "a says from 1", "a started 1"]


def test_a_task_that_takes_too_long_is_stopped(steps: Steps, tmp_path: Path) -> None:
    slow = steps.step("a", "wait_for_cancel", timeout_s=1, retry=Retry(transient=0))
    with pytest.raises(StepFailedError, match="no result after 1 s") as caught:
        steps.run([slow], start_executor=ON_RAY, clock=time)
    assert caught.value.exit_code == 3
    assert (tmp_path / "log.stopped").exists()


def test_what_a_step_prints_on_ray_is_kept(steps: Steps) -> None:
    steps.run([steps.step("a", "talk")], start_executor=ON_RAY)
    assert steps.store.read("runs/run/output/a/e000001-a001.txt") == b"to out\nto err\n"


def test_an_interrupt_cancels_the_task(steps: Steps, tmp_path: Path) -> None:
    class Impatient(Listener):
        def message(self, step: str, text: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        steps.run([steps.step("a", "wait_for_cancel")], start_executor=ON_RAY, observer=Impatient())
    assert (tmp_path / "log.stopped").exists()
    status = read_status(steps.store, "run")
    assert status.state is RunState.RESUMABLE
    assert status.steps["a"].state is StepState.CANCELLED


def test_the_cause_is_found_behind_the_wrappers_of_ray_train() -> None:
    from ray.exceptions import ActorDiedError, RayTaskError, WorkerCrashedError
    from ray.train import WorkerGroupError
    from ray.train.v2._internal.exceptions import (
        UserExceptionWithTraceback,
        WorkerHealthCheckFailedError,
    )

    from orchestrator.ray_executor import describe

    def kind_of(*ranks: Exception) -> tuple[FailureKind, str]:
        failure = describe(WorkerGroupError("failed", dict(enumerate(ranks))))
        return failure.kind, failure.error_type

    data = UserExceptionWithTraceback(DataError("a", "b", "c"), "traceback")
    network = UserExceptionWithTraceback(ConnectionResetError(), "traceback")
    lost = WorkerHealthCheckFailedError("lost", failure=ActorDiedError())
    preempted = ActorDiedError()
    preempted._preempted = True
    assert kind_of(network, data) == (FailureKind.PERMANENT, "DataError")
    assert kind_of(network) == (FailureKind.TRANSIENT, "ConnectionResetError")
    assert kind_of(data, lost) == (FailureKind.SYSTEM, "ActorDiedError")
    assert kind_of(lost, preempted) == (FailureKind.PREEMPTION, "ActorDiedError")
    assert describe(WorkerCrashedError()).kind is FailureKind.SYSTEM
    wrapped = RayTaskError("shard", "traceback", DataError("a", "b", "c"))  # type: ignore[no-untyped-call]
    assert describe(wrapped).error_type == "DataError"
