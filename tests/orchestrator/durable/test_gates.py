from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.durable import Approval, Timer, gates
from orchestrator.durable.gates import open_gate
from orchestrator.durable.states import RunState
from tests.orchestrator.durable.fakes import Steps
from tests.orchestrator.durable.test_runner import Scripted, states


def test_a_step_waits_for_a_person_and_asks_once(steps: Steps) -> None:
    scripted = Scripted(steps)
    runner = scripted.of(steps.step("a", gate=Approval("a look at the report")))
    runner.tick()
    runner._rest()
    assert states(runner) == {"a": "held"}
    assert runner.status.state is RunState.WAITING
    assert scripted.listener.heard == [
        "a says waits for a look at the report: gammaray approve run a"
    ]
    key = runner.status.steps["a"].key
    assert open_gate(steps.store, "run", key, by="me")
    assert not open_gate(steps.store, "run", key, by="you")
    scripted.clock.sleep(1)
    runner.tick()
    runner._rest()
    assert states(runner) == {"a": "running"}
    assert runner.status.state is RunState.RUNNING


def test_an_approval_outlasts_a_restart_but_not_a_change(steps: Steps) -> None:
    first = Scripted(steps).of(steps.step("a", gate=Approval()))
    first.tick()
    open_gate(steps.store, "run", first.status.steps["a"].key, by="me")
    again = Scripted(steps).of(steps.step("a", gate=Approval()))
    again.tick()
    assert states(again) == {"a": "running"}
    changed = Scripted(steps).of(steps.step("a", gate=Approval(), params={"seed": 2}))
    changed.tick()
    assert states(changed) == {"a": "held"}


def test_a_timer_counts_from_when_the_step_could_have_started(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)

    class Later(datetime):
        passed_s = 0.0

        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return start + timedelta(seconds=cls.passed_s)

    monkeypatch.setattr(gates, "datetime", Later)
    timed = steps.step("a", gate=Timer(60))
    for passed_s, state in ((0, "held"), (59, "held"), (60, "running")):
        Later.passed_s = passed_s
        runner = Scripted(steps).of(timed)
        runner.tick()
        assert states(runner) == {"a": state}
