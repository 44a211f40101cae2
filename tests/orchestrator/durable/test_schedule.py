from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.artifacts import Manifest
from orchestrator.durable import Resources, Retry, Step
from orchestrator.durable.attempt import execute
from orchestrator.durable.events import EventReporter
from orchestrator.durable.executor import Capacity, InProcessExecutor, Outcome, Send
from orchestrator.durable.failures import FailureKind
from orchestrator.durable.schedule import Schedule
from tests.orchestrator.durable.fakes import NOTHING, Steps
from tests.orchestrator.durable.test_runner import Scripted, states

TWO = Capacity(cpus=2, gpus=0)


@pytest.fixture
def all_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are known to be quick from the first on."""
    monkeypatch.setattr(Schedule, "_pace_s", lambda self, step: 0.0)


@pytest.fixture
def declared(steps: Steps) -> list[Step]:
    return [steps.step(f"s{number}") for number in range(9)]


def start(schedule: Schedule, steps: Sequence[Step], *, is_patient: bool = True) -> list[list[str]]:
    """Batches of what starts now; steps that run or did are not given again."""
    offered = [(step, is_patient) for step in steps]
    return [list(batch.steps) for batch in schedule.choose(offered, TWO, lambda name: True)]


def after(seconds: float, step: Step) -> Schedule:
    """A schedule that has seen one attempt of the function."""
    schedule = Schedule()
    start(schedule, [step])
    schedule.end(step, seconds)
    return schedule


def test_steps_of_unknown_length_start_alone(declared: list[Step]) -> None:
    assert start(Schedule(), declared) == [["s0"], ["s1"]]


def test_quick_steps_share_the_resources_of_one(declared: list[Step]) -> None:
    schedule = after(0.001, declared[0])
    assert start(schedule, declared[1:]) == [["s1", "s3", "s5", "s7"], ["s2", "s4", "s6", "s8"]]
    assert start(schedule, declared[:1]) == [], "the two CPUs are taken until a batch is over"
    for name in (1, 3, 5):
        schedule.end(declared[name], 0.001)
    assert start(schedule, declared[:1]) == []
    schedule.end(declared[7], 0.001)
    assert start(schedule, declared[:1]) == [["s0"]]


def test_a_batch_takes_no_longer_than_a_tenth_of_a_second(declared: list[Step]) -> None:
    assert start(after(0.04, declared[0]), declared[1:]) == [["s1", "s3"], ["s2", "s4"]]
    assert start(after(0.06, declared[0]), declared[1:]) == [["s1"], ["s2"]]


def test_one_slow_attempt_makes_the_next_run_alone(declared: list[Step]) -> None:
    schedule = after(0.001, declared[0])
    start(schedule, declared[1:2])
    schedule.end(declared[1], 2.0)
    assert start(schedule, declared[2:]) == [["s2"], ["s3"]]


def test_only_equal_resources_share(declared: list[Step], steps: Steps) -> None:
    schedule = after(0.001, declared[0])
    other = [steps.step("big", resources=Resources(cpus=2)), steps.step("no", resources=NOTHING)]
    assert start(schedule, [declared[1], declared[2], *other]) == [["s1"], ["s2"], ["no"]]


def test_what_was_tried_before_or_is_timed_runs_alone(steps: Steps, tmp_path: Path) -> None:
    scripted = Scripted(steps, TWO)
    runner = scripted.of(
        *(steps.step(name) for name in "abcde"), steps.step("timed", timeout_s=60.0)
    )
    schedule = runner._attempts._schedule
    schedule._paces_s[steps.step("a").function] = 0.001
    runner.tick()
    assert scripted.running() == ["a1", "c1", "e1", "b1", "d1"]
    for name in "abcde":
        scripted.executor.fail(name, FailureKind.SYSTEM)
    runner.tick()
    assert scripted.running()[5:] == ["timed1"]
    scripted.clock.sleep(1)
    runner.tick()
    assert scripted.running()[6:] == ["a2"]
    assert states(runner)["b"] == "backoff"


@pytest.mark.usefixtures("all_quick")
def test_a_quick_step_follows_in_the_place_of_what_it_takes(steps: Steps) -> None:
    scripted = Scripted(steps, TWO)
    both = {"a": "c", "b": "x"}
    runner = scripted.of(*steps.chain(), steps.step("x"), steps.step("y", inputs=both))
    runner.tick()
    assert scripted.running() == ["a1", "b1", "c1", "x1"], "y takes a step of another place"
    first, second, *_ = scripted.executor.submitted
    assert not first.follows
    assert second.inputs == {"before": "a"}


@pytest.mark.usefixtures("all_quick")
def test_what_followed_a_failure_waits_again(steps: Steps) -> None:
    scripted = Scripted(steps, TWO)
    runner = scripted.of(*steps.chain())
    runner.tick()
    for name in "abc":
        scripted.executor.fail(name, FailureKind.SYSTEM)
    runner.tick()
    assert states(runner) == {"a": "backoff", "b": "waiting", "c": "waiting"}
    assert scripted.listener.events_of("failed") == ["a failed system retry 1.0"]
    scripted.clock.sleep(1)
    runner.tick()
    assert scripted.running()[3:] == ["a2"]
    scripted.executor.succeed("a")
    runner.tick()
    assert scripted.running()[4:] == ["b2"]


@pytest.mark.usefixtures("all_quick")
def test_a_step_that_fails_behind_another_is_tried_again_by_itself(steps: Steps) -> None:
    chain = steps.chain("write", "write", "fail_once", "write")
    chain[2] = replace(chain[2], settings={**chain[2].settings, "error": "connection"})
    listener = steps.run(chain)
    assert listener.events_of("started", "failed", "finished") == [
        "a started 1",
        "b started 1",
        "c started 1",
        "d started 1",
        "a finished",
        "b finished",
        "c failed transient retry 1.0",
        "c started 2",
        "c finished",
        "d started 2",
        "d finished",
    ]
    assert steps.ran() == ["a", "b", "c", "d"]


@pytest.mark.usefixtures("all_quick")
def test_what_follows_is_reused_if_its_result_turns_out_to_be_there(steps: Steps) -> None:
    def chain(rate: int) -> list[Step]:
        first, *rest = steps.chain("nothing", "write", "write")
        return [replace(first, params={"rate": rate}), *rest]

    steps.run(chain(1))
    heard = steps.run(chain(2)).heard
    assert heard[-3:] == ["a finished", "b reused", "c reused"]
    assert steps.ran() == ["b", "c"]


def on_one_cpu(send: Send) -> InProcessExecutor:
    """Where steps that can run at the same time share a batch."""
    return InProcessExecutor(send, Capacity(cpus=1))


@pytest.mark.usefixtures("all_quick")
def test_a_join_waits_for_both_sides_that_share_a_place(steps: Steps) -> None:
    joined = steps.step("g", inputs={"x": "x", "y": "y"})
    first = steps.step("w")
    sides = [steps.step(name, inputs={"before": "w"}) for name in "xy"]
    heard = steps.run([first, *sides, joined], start_executor=on_one_cpu).heard
    assert heard[-1] == "g finished"
    assert steps.ran() == ["w", "x", "y", "g"]


@pytest.mark.usefixtures("all_quick")
def test_who_takes_an_unkept_result_gets_it_and_not_what_stands_for_it(steps: Steps) -> None:
    unkept = steps.step("u", checkpoint=False)
    taken = steps.step("c", inputs={"u": "u", "a": "a"})
    after_all = steps.step("d", inputs={"u": "u"})
    declared = [unkept, steps.step("a"), after_all, taken]
    heard = steps.run(declared, start_executor=on_one_cpu).heard
    assert {"c finished", "d finished"} <= set(heard)


def commit_both(scripted: Scripted) -> Manifest:
    """What a worker commits that makes a step and the one that follows it; returns the first."""
    first, second = scripted.executor.submitted
    made = execute(first, EventReporter("a", lambda event: None))
    known = second.after({"a": made})
    assert known is not None
    execute(known, EventReporter("b", lambda event: None))
    return made


@pytest.mark.usefixtures("all_quick")
def test_a_result_that_is_there_although_its_attempt_failed_is_taken(steps: Steps) -> None:
    scripted = Scripted(steps, TWO)
    runner = scripted.of(*steps.chain("write", "write"))
    runner.tick()
    scripted.executor.outcomes.append(Outcome("a", commit_both(scripted)))
    scripted.executor.fail("b", FailureKind.SYSTEM)
    assert not runner.tick(), "it is looked for when the time of the next attempt has come"
    scripted.clock.sleep(1)
    assert runner.tick()
    assert states(runner) == {"a": "succeeded", "b": "succeeded"}


@pytest.mark.usefixtures("all_quick")
def test_what_was_committed_counts_even_when_no_attempt_is_left(steps: Steps) -> None:
    scripted = Scripted(steps, TWO)
    chain = [replace(step, retry=Retry(system=0)) for step in steps.chain("write", "write")]
    runner = scripted.of(*chain)
    runner.tick()
    commit_both(scripted)
    for name in "ab":
        scripted.executor.fail(name, FailureKind.SYSTEM)
    assert runner.tick()
    assert states(runner) == {"a": "succeeded", "b": "succeeded"}


@pytest.mark.usefixtures("all_quick")
def test_a_follower_says_what_changed_once_that_is_known(steps: Steps) -> None:
    def chain(rate: int) -> list[Step]:
        first, *rest = steps.chain("write", "write")
        return [replace(first, params={"rate": rate}), *rest]

    steps.run(chain(1))
    scripted = Scripted(steps, TWO)
    runner = scripted.of(*chain(2))
    runner.tick()
    assert runner.status.steps["b"].reasons == ("b: follows a",)
    scripted.executor.succeed("a")
    scripted.executor.succeed("b")
    runner.tick()
    (reason,) = runner.status.steps["b"].reasons
    assert "before" in reason
