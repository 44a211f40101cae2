"""Catch, declared retries, timeouts and results that are not kept."""

import json
from pathlib import Path

import pytest

from orchestrator.artifacts.manifest import committed_for
from orchestrator.durable import (
    InProcessExecutor,
    Retry,
    Runner,
    Step,
    StepFailedError,
    read_status,
)
from orchestrator.durable.failures import FailureKind
from orchestrator.durable.states import StepState
from tests.orchestrator.durable.fakes import ScriptedExecutor, Steps
from tests.orchestrator.durable.test_runner import Scripted, states


def test_a_caught_failure_is_a_result(steps: Steps, tmp_path: Path) -> None:
    chain = [
        steps.step("a", "fail_always", catch=True),
        steps.step("b", "tell_failure", inputs={"before": "a"}),
    ]
    result = Runner("run", chain, steps.store, start_executor=InProcessExecutor).run()
    told = json.loads((result.artifact("b", tmp_path).path / "failures").read_text())
    assert told == {
        "before": {"kind": "permanent", "error_type": "ZeroDivisionError", "message": "a bug"}
    }
    assert read_status(steps.store, "run").steps["a"].state is StepState.CAUGHT
    assert steps.run(chain).heard == ["a reused", "b reused"]
    assert [file.path for file in committed_for(steps.store, "a")[0].files] == ["failure.json"]


def test_trouble_that_passes_is_not_caught(steps: Steps) -> None:
    step = steps.step(
        "a", "fail_once", catch=True, settings={"error": "connection"}, retry=Retry(transient=0)
    )
    with pytest.raises(StepFailedError, match="ConnectionResetError") as caught:
        steps.run([step])
    assert caught.value.exit_code == 3
    assert committed_for(steps.store, "a") == []


@pytest.mark.parametrize("name", ["ZeroDivisionError", "ArithmeticError"])
def test_an_error_declared_as_passing_is_tried_again(steps: Steps, name: str) -> None:
    step = steps.step(
        "a", "fail_once", settings={"error": "bug"}, retry=Retry(errors=(name,), transient=1)
    )
    assert steps.run([step]).events_of("failed", "finished") == [
        "a failed transient retry 1.0",
        "a finished",
    ]


def test_an_attempt_that_takes_too_long_is_stopped_and_tried_again(steps: Steps) -> None:
    scripted = Scripted(steps)
    runner = scripted.of(steps.step("a", timeout_s=60), steps.step("b"))
    runner.tick()
    scripted.clock.sleep(59)
    runner.tick()
    assert scripted.executor.stopped == []
    scripted.clock.sleep(2)
    runner.tick()
    assert scripted.executor.stopped == ["a"]
    assert states(runner) == {"a": "backoff", "b": "running"}
    assert scripted.listener.failures[0].message == "no result after 60 s"
    scripted.clock.sleep(1)
    runner.tick()
    assert scripted.running() == ["a1", "b1", "a2"]


def test_an_attempt_that_died_after_its_commit_is_not_repeated(steps: Steps) -> None:
    class Forgetful(ScriptedExecutor):
        """Commits, and then loses the process that should have said so."""

        def poll(self, wait_s: float) -> list[object]:  # type: ignore[override]
            while self.submitted:
                task = self.submitted.pop()
                real = InProcessExecutor(print)
                real.submit([task])
                real.poll(0)
                self.fail_with(task.step.name)
            return super().poll(wait_s)  # type: ignore[return-value]

        def fail_with(self, name: str) -> None:
            self.submitted, kept = [], self.submitted
            self.fail(name, FailureKind.SYSTEM)
            self.submitted = kept

    steps.run([steps.step("a")], start_executor=Forgetful())
    assert steps.ran() == ["a"]


def unkept(steps: Steps, rate: float = 0.5) -> list[Step]:
    return [
        steps.step("cheap", checkpoint=False),
        steps.step("middle", inputs={"before": "cheap"}),
        steps.step("last", inputs={"cheap": "cheap", "middle": "middle"}, params={"rate": rate}),
    ]


def test_a_result_that_is_not_kept_is_made_when_a_step_needs_it(steps: Steps) -> None:
    steps.run(unkept(steps))
    assert steps.ran() == ["cheap", "middle", "last"]
    assert committed_for(steps.store, "cheap") == []
    assert {path.split("/")[1] for path in steps.store.list("artifacts")} == {
        committed_for(steps.store, name)[0].key.digest for name in ("middle", "last")
    }
    assert steps.run(unkept(steps), start_executor=None).heard == ["middle reused", "last reused"]
    steps.run(unkept(steps, rate=0.7))
    assert steps.ran() == ["cheap", "middle", "last", "cheap", "last"]


def test_a_change_before_an_unkept_result_changes_what_follows(steps: Steps) -> None:
    chain = [
        steps.step("cheap", checkpoint=False, params={"seed": 1}),
        steps.step("last", inputs={"before": "cheap"}),
    ]
    steps.run(chain)
    chain[0] = steps.step("cheap", checkpoint=False, params={"seed": 2})
    steps.run(chain)
    assert steps.ran() == ["cheap", "last", "cheap", "last"]


def test_metadata_is_recorded_and_changes_nothing(steps: Steps) -> None:
    steps.run([steps.step("a", metadata={"owner": "me"})])
    steps.run([steps.step("a", metadata={"owner": "you"})])
    assert steps.ran() == ["a"]
    assert committed_for(steps.store, "a")[0].values["metadata"] == {"owner": "me"}
