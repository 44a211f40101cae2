"""The verbs that look at a run and act on it, over a store with small runs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import ExitCode, main
from orchestrator.durable import Approval, InProcessExecutor, Runner, StepFailedError, Store
from orchestrator.durable.record import Spec, write_spec
from orchestrator.durable.states import RunState
from orchestrator.ownership import RunOwnedError
from orchestrator.ownership.epochs import announce
from orchestrator.runs import cancel, delete, tag
from orchestrator.runs.log import RunLog
from tests.orchestrator.durable.conftest import quick_disk, steps, store
from tests.orchestrator.durable.fakes import FakeClock, Steps
from tests.orchestrator.durable.test_runner import Scripted

__all__ = ["quick_disk", "steps", "store"]


class Shell:
    """Gives commands and reads what they print."""

    def __init__(self, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
        self._url, self._capsys = store.url, capsys

    def __call__(self, *command: str, code: ExitCode = ExitCode.DONE) -> str:
        assert main([*command, "--store", self._url]) == code
        return self._capsys.readouterr().out

    def json(self, *command: str) -> Any:
        return json.loads(self(*command, "--json"))

    def error(self, *command: str, code: ExitCode) -> str:
        assert main([*command, "--store", self._url]) == code
        return self._capsys.readouterr().err


@pytest.fixture
def shell(store: Store, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(store, capsys)


@pytest.fixture
def finished(steps: Steps) -> Steps:
    """A run with a log, the words of its step b, and a failed run beside it."""
    log = RunLog(steps.store, "good")
    chain = steps.chain("write", "talk", "write")
    Runner("good", chain, steps.store, start_executor=InProcessExecutor, observer=log).run()
    log.close()
    bad = [steps.step("bad", "fail_always")]
    with pytest.raises(StepFailedError):
        Runner("bad", bad, steps.store, start_executor=InProcessExecutor).run()
    return steps


def test_runs_are_listed_by_state_name_tag_and_age(finished: Steps, shell: Shell) -> None:
    def names(*filters: str) -> list[str]:
        return [run["run_id"] for run in shell.json("list", *filters)]

    tag(finished.store, "good", "paper")
    assert names() == ["good", "bad"]
    assert names("--state", "failed") == ["bad"]
    assert names("--name", "go") == ["good"]
    assert names("--tag", "paper") == ["good"]
    assert names("--last", "1") == ["bad"]
    assert "bad" in shell("list")


@pytest.fixture
def starting(steps: Steps) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that was started to drive a run, and has not come to it."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        spec = Spec(steps=steps.chain(), recipe={}, metadata={})
        write_spec(steps.store, "run", 1, spec)
        announce(steps.store, "run", 1, process.pid)
        yield process


def test_a_run_without_its_driver_yet_is_pending(
    starting: "subprocess.Popen[bytes]", steps: Steps, shell: Shell
) -> None:
    assert shell.json("status", "run")["state"] == "pending"
    assert [run["state"] for run in shell.json("list", "--state", "pending")] == ["pending"]
    assert [node["state"] for node in shell.json("graph", "run")] == ["waiting"] * 3
    with pytest.raises(RunOwnedError, match=f"driven by process {starting.pid} on"):
        delete(steps.store, "run")
    steps.run(steps.chain())
    assert shell.json("status", "run")["state"] == "succeeded"
    assert shell.json("status", "run")["epoch"] == 1


def test_a_driver_that_died_before_it_began_leaves_the_run_resumable(
    starting: "subprocess.Popen[bytes]", steps: Steps, shell: Shell
) -> None:
    starting.kill()
    starting.wait()
    assert shell.json("status", "run")["state"] == "resumable"
    steps.run(steps.chain())
    announce(steps.store, "run", 2, starting.pid)
    assert shell.json("status", "run")["state"] == "succeeded"


def test_a_pending_run_is_cancelled_once_its_driver_can_be_asked(
    starting: "subprocess.Popen[bytes]", steps: Steps
) -> None:
    told: list[str] = []
    clock = FakeClock(on_sleep=starting.kill)
    assert cancel(steps.store, "run", clock=clock, tell=told.append) is RunState.CANCELLED
    assert told[0].startswith(f"waiting for process {starting.pid} on")


def test_logs_tell_what_happened_and_what_a_step_printed(finished: Steps, shell: Shell) -> None:
    lines = shell("logs", "good").splitlines()
    told = [line.partition(" ")[2] for line in lines]
    assert told[0] == "a: attempt 1: a: no result yet"
    assert [line[:12] for line in told if "finished" in line] == [f"{n}: finished " for n in "abc"]
    assert shell("logs", "good", "b") == "--- b e000001-a001\nto out\nto err\n"
    assert shell.json("logs", "good", "a")["attempts"] == {}
    assert shell.json("logs", "good")["lines"] == lines


def test_the_error_of_an_attempt_is_in_its_log(finished: Steps, shell: Shell) -> None:
    assert "ZeroDivisionError: a bug" in shell("logs", "bad", "bad")


def test_a_graph_shows_what_takes_what(finished: Steps, shell: Shell) -> None:
    found = shell.json("graph", "good")
    assert [(node["step"], node["inputs"], node["state"]) for node in found] == [
        ("a", [], "succeeded"),
        ("b", ["a"], "succeeded"),
        ("c", ["b"], "succeeded"),
    ]
    assert all(node["seconds"] >= 0 for node in found)
    assert "└── b: succeeded" in shell("graph", "good")


def test_a_graph_is_drawn_into_a_file(finished: Steps, shell: Shell, tmp_path: Path) -> None:
    shell("graph", "good", "--svg", str(tmp_path / "good.svg"))
    drawing = (tmp_path / "good.svg").read_text(encoding="utf-8")
    assert drawing.count('<g class="step computed">') == 3
    assert ".graph .computed rect" in drawing


def test_the_ledger_tells_what_each_result_has_cost(finished: Steps, shell: Shell) -> None:
    found = shell.json("status", "good", "--ledger")
    assert [cost["step"] for cost in found["steps"]] == ["a", "b", "c"]
    assert {(cost["run_id"], cost["attempt"]) for cost in found["steps"]} == {("good", 1)}
    assert all(cost["bytes"] > 0 and cost["seconds"] >= 0 for cost in found["steps"])
    assert found["total"]["bytes"] == sum(cost["bytes"] for cost in found["steps"])
    assert "GPU s" in shell("status", "good", "--ledger")


def test_a_waiting_step_is_approved(steps: Steps, shell: Shell) -> None:
    runner = Scripted(steps).of(steps.step("a", gate=Approval()))
    runner.status.epoch = 1
    steps.store.create("runs/run/epochs/000001/owner.json", b'{"pid": 1}')
    runner.tick()
    runner._board.record(at_once=True)
    assert shell.json("approve", "run", "a", "--by", "me")["was_new"]
    assert not shell.json("approve", "run", "a", "--by", "me")["was_new"]
    text = shell.error("approve", "run", "b", code=ExitCode.WRONG_USAGE)
    assert "not a step of this run" in text


def test_a_run_is_cancelled_and_deleted(
    steps: Steps, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.runs.control.time", FakeClock())
    with pytest.raises(KeyboardInterrupt):
        steps.run(steps.chain("write", "interrupt"))
    assert shell.json("cancel", "run")["state"] == "cancelled"
    assert "cancelled and deleted" in shell("cancel", "run", "--delete")
    shell.error("status", "run", code=ExitCode.WRONG_USAGE)


def test_garbage_is_shown_and_then_removed(finished: Steps, shell: Shell) -> None:
    planned = shell.json("gc", "--keep-last", "1", "--dry-run")
    assert (planned["runs"], len(planned["manifests"])) == (["good"], 3)
    assert shell("gc", "--keep-last", "1").startswith("removed 1 runs, 3 results")
    assert shell.json("gc", "--size", "1.5 GB")["runs"] == []


@pytest.mark.parametrize("options", [("--size", "much"), ("--keep-last", "-1")])
def test_a_wrong_limit_is_refused(shell: Shell, options: tuple[str, str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        shell("gc", *options)


@pytest.mark.parametrize("verb", ["cancel", "logs", "graph", "status"])
def test_a_run_that_is_not_there_is_named(shell: Shell, verb: str) -> None:
    text = shell.error(verb, "absent", code=ExitCode.WRONG_USAGE)
    assert "has no run 'absent'; `gammaray list` shows" in text


def test_only_what_gammaray_run_started_can_be_resumed(finished: Steps, shell: Shell) -> None:
    text = shell.error("resume", "good", code=ExitCode.WRONG_USAGE)
    assert "was not started by `gammaray run`" in text
    shell("resume", "--all")


@pytest.mark.parametrize("verb", ["run", "sweep"])
def test_a_resumed_run_is_given_what_it_was_started_with(
    finished: Steps, shell: Shell, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    given: list[Any] = []
    execute = f"orchestrator.commands.{verb}.execute"
    monkeypatch.setattr(execute, lambda args: given.append(args) or 3)
    to = ["data"] if verb == "run" else []
    start = {"verb": verb, "recipe": "digits", "overrides": ["seed=3"], "to": to}
    with pytest.raises(KeyboardInterrupt):
        Runner(
            "stopped",
            finished.chain("write", "interrupt", rate=9),
            finished.store,
            start_executor=InProcessExecutor,
            metadata=start,
        ).run()
    shell("resume", "--all", "--address", "auto", code=ExitCode.RESUMABLE)
    (args,) = given
    assert (args.recipe, args.overrides, args.to) == ("digits", ["seed=3"], to)
    assert args.verb == verb
    assert (args.address, args.store) == ("auto", finished.store.url)
