import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.artifacts.manifest import committed_for
from orchestrator.durable import (
    InProcessExecutor,
    Resources,
    Retry,
    Runner,
    StepFailedError,
    Store,
    TimeIsUpError,
    list_runs,
    read_spec,
    read_status,
    run_identity,
)
from orchestrator.durable.errors import ClusterError
from orchestrator.durable.executor import Capacity, check_capacity, check_store_reaches
from orchestrator.durable.failures import FailureKind
from orchestrator.durable.states import RunState, StepState
from orchestrator.ownership import Lease, OwnershipLostError, RunOwnedError, claim
from orchestrator.store import StoreError
from tests.orchestrator.durable.fakes import (
    HERE,
    FakeClock,
    Listener,
    ScriptedExecutor,
    Steps,
)


class Scripted:
    """A runner whose attempts end as the test says, one tick at a time."""

    def __init__(self, steps: Steps, capacity: Capacity | None = None) -> None:
        self.executor, self.clock = ScriptedExecutor(capacity), FakeClock()
        self.listener, self.steps = Listener(), steps

    def of(self, *declared: object, stop_at_s: float | None = None) -> Runner:
        return Runner(
            "run",
            declared,  # type: ignore[arg-type]
            self.steps.store,
            start_executor=self.executor,
            observer=self.listener,
            clock=self.clock,
            stop_at_s=stop_at_s,
        )

    def running(self) -> list[str]:
        return [f"{task.step.name}{task.attempt}" for task in self.executor.submitted]


@pytest.fixture
def scripted(steps: Steps) -> Scripted:
    return Scripted(steps)


def states(runner: Runner) -> dict[str, str]:
    return {name: str(step.state) for name, step in runner.status.steps.items()}


def test_a_chain_runs_in_order_and_passes_results_on(steps: Steps, tmp_path: Path) -> None:
    chain = steps.chain(rate=0.5)
    result = Runner("run", chain, steps.store, start_executor=InProcessExecutor).run()
    assert steps.ran() == ["a", "b", "c"]
    text = (result.artifact("c", tmp_path).path / "text").read_text()
    assert text == """[] ["[('rate', 0.5)] ['[] []']"]"""


def test_a_second_run_reuses_everything_and_starts_nothing(steps: Steps) -> None:
    steps.run(steps.chain())
    heard = steps.run(steps.chain(), start_executor=None).heard
    assert heard == ["a reused", "b reused", "c reused"]
    assert steps.ran() == ["a", "b", "c"]


def test_another_run_shares_the_results(steps: Steps) -> None:
    steps.run(steps.chain())
    Runner("other", steps.chain(), steps.store, start_executor=InProcessExecutor).run()
    assert steps.ran() == ["a", "b", "c"]
    assert list_runs(steps.store) == ["other", "run"]


def test_a_result_equal_to_the_last_one_is_where_the_change_ends(steps: Steps) -> None:
    steps.run(steps.chain("write", "nothing", "write", rate=1))
    steps.run(steps.chain("write", "nothing", "write", rate=2))
    assert steps.ran() == ["a", "c"]


def test_the_observer_hears_everything_in_order(steps: Steps) -> None:
    assert steps.run(steps.chain("write")).heard == [
        "a started 1",
        "a 1/2 lines half",
        "a 3 {'loss': 0.5}",
        "a says written",
        "a finished",
    ]


def test_independent_steps_run_together_as_far_as_resources_go(steps: Steps) -> None:
    scripted = Scripted(steps, Capacity(cpus=3, gpus=0))
    needs = [Resources(cpus=2), Resources(cpus=0, worker_cpus=2), Resources(cpus=1)]
    runner = scripted.of(*(steps.step(n, resources=r) for n, r in zip("abc", needs, strict=True)))
    runner.tick()
    assert scripted.running() == ["a1", "c1"]
    scripted.executor.succeed("a")
    runner.tick()
    assert scripted.running() == ["a1", "c1", "b1"]


def test_what_needs_more_than_there_is_stops_before_any_work(steps: Steps) -> None:
    scripted = Scripted(steps, Capacity(cpus=2, gpus=0))
    too_big = steps.step("b", inputs={"a": "a"}, resources=Resources(cpus=0, worker_cpus=4))
    with pytest.raises(ClusterError, match="'b' needs 4 CPUs and 0 GPUs, there are 2 and 0"):
        scripted.of(steps.step("a"), too_big).run()
    assert scripted.running() == []
    assert scripted.executor.is_closed
    assert read_status(steps.store, "run").state is RunState.FAILED


def test_what_needs_more_than_any_node_has_is_refused(steps: Steps) -> None:
    nodes = {"small": (2.0, 0.0), "big": (4.0, 0.0)}
    capacity = Capacity(cpus=6, gpus=0, nodes=nodes)
    check_capacity([steps.step("a", resources=Resources(cpus=4, worker_cpus=2))], capacity)
    reason = "'b' needs 5 CPUs and 0 GPUs on one node, the largest, big, has 4 and 0"
    with pytest.raises(ClusterError, match=reason):
        check_capacity([steps.step("b", resources=Resources(cpus=5))], capacity)


def test_a_directory_of_one_machine_is_refused_on_several(steps: Steps) -> None:
    scripted = Scripted(steps, Capacity(nodes={"one": (2, 0), "two": (2, 0)}))
    with pytest.raises(ClusterError, match=r"2 nodes: use a shared store such as s3://"):
        scripted.of(steps.step("a")).run()


def test_a_shared_store_reaches_all_nodes(tmp_path: Path, steps: Steps) -> None:
    from orchestrator.durable import open_store

    check_store_reaches(steps.store, ("one",))
    check_store_reaches(open_store(f"{tmp_path.as_uri()}?shared=true"), ("one", "two"))
    check_store_reaches(open_store("memory://x"), ("one", "two"))


def test_a_failure_is_tried_again_after_its_wait(scripted: Scripted) -> None:
    retry = Retry(system=1, preemption=1, backoff_s=5)
    runner = scripted.of(scripted.steps.step("a", retry=retry))
    runner.tick()
    scripted.executor.fail("a", FailureKind.SYSTEM)
    assert not runner.tick()
    assert states(runner) == {"a": "backoff"}
    scripted.clock.sleep(4.9)
    runner.tick()
    assert scripted.running() == ["a1"]
    scripted.clock.sleep(0.2)
    runner.tick()
    assert scripted.running() == ["a1", "a2"]
    scripted.executor.fail("a", FailureKind.PREEMPTION)
    runner.tick()
    scripted.clock.sleep(5)
    runner.tick()
    scripted.executor.fail("a", FailureKind.SYSTEM)
    assert runner.tick()
    assert states(runner) == {"a": "failed"}
    assert scripted.listener.events_of("failed") == [
        "a failed system retry 5.0",
        "a failed preemption retry 5.0",
        "a failed system retry None",
    ]


def test_after_a_failure_nothing_starts_and_what_runs_is_finished(scripted: Scripted) -> None:
    steps = scripted.steps
    runner = scripted.of(
        steps.step("a"), steps.step("b"), steps.step("c", inputs={"b": "b"}), steps.step("d")
    )
    runner.tick()
    scripted.executor.fail("a", FailureKind.PERMANENT)
    assert not runner.tick()
    scripted.executor.succeed("b")
    assert not runner.tick()
    scripted.executor.fail("d", FailureKind.SYSTEM)
    assert runner.tick()
    assert states(runner) == {"a": "failed", "b": "succeeded", "c": "waiting", "d": "failed"}


def test_when_the_time_is_up_nothing_starts_and_what_runs_may_save_itself(
    scripted: Scripted,
) -> None:
    steps = scripted.steps
    stopping = Retry(errors=("TrainingStoppedError",))
    runner = scripted.of(
        steps.step("a"),
        steps.step("b", retry=stopping),
        steps.step("c", inputs={"a": "a"}),
        stop_at_s=time.time() + 10.0,
    )
    runner.tick()
    assert {task.stop_at_s is not None for task in scripted.executor.submitted} == {True}
    scripted.clock.sleep(11.0)
    scripted.executor.succeed("a")
    assert not runner.tick(), "b has a minute"
    scripted.executor.fail("b", FailureKind.TRANSIENT)
    with pytest.raises(TimeIsUpError, match="continue with: gammaray resume run") as caught:
        runner.tick()
    assert caught.value.exit_code == 3
    assert states(runner) == {"a": "succeeded", "b": "backoff", "c": "waiting"}


def test_what_does_not_stop_in_time_is_stopped(scripted: Scripted) -> None:
    runner = scripted.of(scripted.steps.step("a"), stop_at_s=time.time() - 55.0)
    with pytest.raises(TimeIsUpError):
        runner.tick()
    assert scripted.running() == []
    runner = scripted.of(scripted.steps.step("a"), stop_at_s=time.time() + 1.0)
    runner.tick()
    scripted.clock.sleep(55.0)
    assert not runner.tick()
    scripted.clock.sleep(10.0)
    with pytest.raises(TimeIsUpError):
        runner.tick()


def test_a_run_that_stopped_in_time_is_resumable(steps: Steps) -> None:
    with pytest.raises(TimeIsUpError):
        steps.run(steps.chain(), stop_at_s=time.time())
    assert read_status(steps.store, "run").state is RunState.RESUMABLE
    steps.run(steps.chain())
    assert steps.ran() == ["a", "b", "c"]


@pytest.mark.parametrize("error", ["connection", "full"])
def test_an_error_that_passes_is_survived(steps: Steps, error: str) -> None:
    declared = [steps.step("a", "fail_once", settings={"error": error})]
    listener = steps.run(declared)
    assert listener.events_of("started", "finished") == ["a started 1", "a started 2", "a finished"]
    (manifest,) = committed_for(steps.store, "a")
    assert [file.path for file in manifest.files] == ["text"], "nothing of the failed attempt"


def test_a_bug_ends_the_run_and_its_fix_continues_it(steps: Steps) -> None:
    chain = steps.chain("write", "fail_once", "write")
    chain[1] = replace(chain[1], settings={**chain[1].settings, "error": "bug"})
    with pytest.raises(StepFailedError, match="ZeroDivisionError: a bug") as caught:
        steps.run(chain)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    status = read_status(steps.store, "run")
    assert status.state is RunState.FAILED
    assert status.steps["b"].failure == "ZeroDivisionError: a bug"
    assert committed_for(steps.store, "b") == []
    steps.run(chain)
    assert steps.ran() == ["a", "b", "c"]


def test_a_full_disk_leaves_the_run_resumable(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def full(source: Path, target: Path) -> None:
        if "manifests" in str(target):
            raise OSError(28, os.strerror(28))
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.store.local.os.link", full)
        with pytest.raises(StepFailedError, match="No space left") as caught:
            steps.run([steps.step("a", retry=Retry(system=1))])
    assert caught.value.exit_code == 3
    assert read_status(steps.store, "run").state is RunState.RESUMABLE
    assert steps.store.list("manifests") == []
    steps.run([steps.step("a")])
    (manifest,) = committed_for(steps.store, "a")
    assert all(path.startswith(manifest.root) for path in steps.store.list("artifacts"))


def test_an_interrupt_stops_everything_and_leaves_the_run_resumable(steps: Steps) -> None:
    with pytest.raises(KeyboardInterrupt):
        steps.run(steps.chain("write", "interrupt"))
    status = read_status(steps.store, "run")
    assert status.state is RunState.RESUMABLE
    assert status.steps["b"].state is StepState.CANCELLED
    steps.run(steps.chain("write", "write"))
    assert steps.ran() == ["a", "b", "b"]


def test_an_interrupt_cancels_what_runs(scripted: Scripted) -> None:
    def interrupt(wait_s: float) -> None:
        raise KeyboardInterrupt

    scripted.executor.poll = interrupt  # type: ignore[assignment,method-assign]
    with pytest.raises(KeyboardInterrupt):
        scripted.of(scripted.steps.step("a")).run()
    assert scripted.executor.is_cancelled
    assert scripted.executor.is_closed


def test_two_drivers_of_one_run_are_refused(steps: Steps) -> None:
    clock = FakeClock()
    first = claim(steps.store, "run", lease=Lease(), clock=clock, tell=print)
    clock.on_sleep = first.beat
    with pytest.raises(RunOwnedError, match="epoch 1") as caught:
        steps.run(steps.chain(), clock=clock)
    assert caught.value.exit_code == 2
    assert steps.ran() == []


def test_a_driver_that_lost_its_run_stops(scripted: Scripted) -> None:
    store = scripted.steps.store
    runner = scripted.of(scripted.steps.step("a"))

    def lose(wait_s: float) -> list[object]:
        store.create("runs/run/epochs/000002/owner.json", b'{"pid": 0}')
        assert runner._ownership is not None
        runner._ownership.beat()
        return []

    scripted.executor.poll = lose  # type: ignore[assignment,method-assign]
    with pytest.raises(OwnershipLostError, match="epoch 1 no longer owns it"):
        runner.run()
    assert scripted.executor.is_cancelled
    assert not store.exists("runs/run/epochs/000002/status.json")


def test_a_redone_step_gets_a_next_generation(steps: Steps) -> None:
    steps.run(steps.chain())
    steps.run(steps.chain(), redo={"b"})
    assert steps.ran() == ["a", "b", "c", "b"]
    assert [manifest.generation for manifest in committed_for(steps.store, "b")] == [0, 1]
    steps.run(steps.chain())
    assert len(steps.ran()) == 4


def test_a_lost_effect_is_made_again(steps: Steps, tmp_path: Path) -> None:
    effect = tmp_path / "effect"
    registered = steps.step("r", validate=f"{HERE}:has_effect", settings={"effect": str(effect)})
    steps.run([registered])
    steps.run([registered])
    assert steps.ran() == ["r", "r"]
    effect.touch()
    assert steps.run([registered]).heard == ["r reused"]


def test_changed_code_is_mentioned_on_reuse(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    steps.run(steps.chain("write"))
    monkeypatch.setattr("orchestrator.durable.planning.source_digest", lambda function: "ef" * 32)
    heard = steps.run(steps.chain("write")).heard
    assert heard[0] == "a reused"
    assert heard[1].startswith("a says reused although a: code ")


def test_a_run_is_known_without_opening_its_steps(steps: Steps) -> None:
    recipe = {"name": "digits", "seed": 7}
    declared = [steps.step("a", settings={"token": "secret"})]
    steps.run(declared, recipe=recipe)
    spec = read_spec(steps.store, "run")
    assert spec["recipe"] == recipe
    assert "secret" not in json.dumps(spec)
    status = read_status(steps.store, "run")
    assert (status.state, status.epoch) == (RunState.SUCCEEDED, 1)
    assert status.steps["a"].reasons == ("a: no result yet",)
    with pytest.raises(FileNotFoundError, match="has no run 'other'"):
        read_status(steps.store, "other")


def test_a_run_whose_driver_died_at_once_is_resumable(store: Store) -> None:
    claim(store, "run", lease=Lease(), clock=FakeClock(), tell=print)
    assert read_status(store, "run").state is RunState.RUNNING
    owner = json.loads(store.read("runs/run/epochs/000001/owner.json"))
    store.overwrite(
        "runs/run/epochs/000001/owner.json", json.dumps({**owner, "process_start": "1"}).encode()
    )
    assert read_status(store, "run").state is RunState.RESUMABLE


def test_a_status_that_cannot_be_written_stops_nobody(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoreError("file:///x", "", "gone for a minute")

    monkeypatch.setattr("orchestrator.durable.board.write_status", away)
    steps.run(steps.chain())
    assert steps.ran() == ["a", "b", "c"]


def test_the_same_recipe_is_the_same_run() -> None:
    assert run_identity("digits", {"a": 1, "b": 2}) == run_identity("digits", {"b": 2, "a": 1})
    assert run_identity("digits", {"a": 1}) != run_identity("digits", {"a": 2})
