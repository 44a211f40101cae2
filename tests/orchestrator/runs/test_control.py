import json
import threading
from pathlib import Path

import pytest

from orchestrator.durable import Approval, InProcessExecutor, Runner, read_status
from orchestrator.durable.errors import StepError
from orchestrator.durable.states import RunState
from orchestrator.ownership import Lease, RunCancelledError, RunOwnedError, claim
from orchestrator.runs import approve, cancel, delete, open_result, tag, tags
from tests.orchestrator.durable.fakes import FakeClock, Steps

QUICK = Lease(ttl_s=30.0, beat_s=0.02)


class Waiting:
    """A real driver in a thread, which waits for an approval."""

    def __init__(self, steps: Steps) -> None:
        chain = [steps.step("a"), steps.step("b", inputs={"a": "a"}, gate=Approval())]
        self.error: BaseException | None = None
        self._runner = Runner(
            "run", chain, steps.store, start_executor=InProcessExecutor, lease=QUICK
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        while self._runner.status.state is not RunState.WAITING:
            self._thread.join(0.01)
        self._runner._board.record(at_once=True)

    def _run(self) -> None:
        try:
            self._runner.run()
        except RunCancelledError as error:
            self.error = error

    def end(self) -> None:
        self._thread.join(60)


def test_an_approved_step_goes_on(steps: Steps) -> None:
    driver = Waiting(steps)
    with pytest.raises(StepError, match=r"'a'.*it is succeeded.*those that wait: b"):
        approve(steps.store, "run", "a", by="me")
    assert approve(steps.store, "run", "b", by="me")
    driver.end()
    assert steps.ran() == ["a", "b"]


def test_a_driven_run_is_cancelled_and_goes_on_only_when_told_to(steps: Steps) -> None:
    driver = Waiting(steps)
    with pytest.raises(RunOwnedError):
        delete(steps.store, "run")
    assert cancel(steps.store, "run", lease=QUICK) is RunState.CANCELLED
    driver.end()
    assert isinstance(driver.error, RunCancelledError)
    assert driver.error.exit_code == 3
    assert read_status(steps.store, "run").state is RunState.CANCELLED
    steps.run(steps.chain("write", "write"))
    assert steps.ran() == ["a", "b"]


def test_a_run_whose_driver_died_is_cancelled_at_once(steps: Steps) -> None:
    with pytest.raises(KeyboardInterrupt):
        steps.run(steps.chain("write", "interrupt"))
    assert cancel(steps.store, "run", clock=FakeClock()) is RunState.CANCELLED
    status = read_status(steps.store, "run")
    assert (status.state, status.epoch) == (RunState.CANCELLED, 2)
    assert status.steps["a"].manifest


def test_a_driver_on_another_host_is_waited_for(steps: Steps) -> None:
    clock = FakeClock()
    claim(steps.store, "run", lease=Lease(), clock=clock, tell=print)
    path = "runs/run/epochs/000001/owner.json"
    record = json.loads(steps.store.read(path)) | {"host": "other"}
    steps.store.overwrite(path, json.dumps(record).encode())

    def beat() -> None:
        steps.store.overwrite("runs/run/epochs/000001/beat", str(clock.now_s).encode())

    clock.on_sleep = beat
    with pytest.raises(RunOwnedError):
        cancel(steps.store, "run", clock=clock)
    clock.on_sleep = lambda: None
    assert cancel(steps.store, "run", clock=clock) is RunState.CANCELLED


def test_a_finished_run_stays_finished(steps: Steps) -> None:
    steps.run(steps.chain())
    assert cancel(steps.store, "run") is RunState.SUCCEEDED


def test_a_deleted_run_leaves_its_results_to_others(steps: Steps) -> None:
    steps.run(steps.chain())
    delete(steps.store, "run")
    with pytest.raises(FileNotFoundError, match=r"has no run 'run'"):
        read_status(steps.store, "run")
    steps.run(steps.chain())
    assert steps.ran() == ["a", "b", "c"]


def test_the_result_of_a_step_can_be_opened_afterwards(steps: Steps, tmp_path: Path) -> None:
    steps.run(steps.chain(rate=0.5))
    opened = open_result(steps.store, "run", "b", tmp_path)
    assert "('rate', 0.5)" in (opened.path / "text").read_text()
    with pytest.raises(StepError, match=r"'x'.*has no result.*those that have: a, b, c"):
        open_result(steps.store, "run", "x", tmp_path)


def test_tags_are_names(steps: Steps) -> None:
    steps.run(steps.chain())
    for name in ("paper", "best", "best"):
        tag(steps.store, "run", name)
    tag(steps.store, "absent", "x")
    assert tags(steps.store, "run") == ["best", "paper"]
    assert tags(steps.store, "absent") == []
