"""Nodes that die, come back, or fall silent under a running step."""

import signal

import pytest

from orchestrator.artifacts.artifact import read_file
from orchestrator.artifacts.manifest import Manifest, committed_for, generations
from orchestrator.durable import Store, read_status
from orchestrator.durable.record import StepStatus
from orchestrator.durable.states import RunState
from tests.orchestrator.nodes.conftest import Cluster, Run, wait_for

pytestmark = pytest.mark.ray


def test_the_step_of_a_dead_node_is_done_again_on_another_one(cluster: Cluster, run: Run) -> None:
    cluster.keep("a", "b")
    driver = run.drive(cluster)
    first = run.started("middle")
    cluster.kill(cluster.name_of(first.node))
    run.go()
    assert driver.end() == 0, driver.said
    assert run.ran() == ["first", "middle", "middle", "last"]
    again = run.started("middle", attempt=2)
    assert again.node != first.node
    assert text_of(run.store, "last") == "first\nmiddle\nlast\n"


def test_a_step_without_a_node_waits_until_one_is_added(cluster: Cluster, run: Run) -> None:
    cluster.keep("a")
    driver = run.drive(cluster)
    run.started("middle")
    cluster.kill("a")
    wait_for(lambda: status_of(run, "middle").failure, "the driver has noticed")
    run.go()
    cluster.add("late")
    assert driver.end() == 0, driver.said
    assert cluster.name_of(run.started("middle", attempt=2).node) == "late"
    assert text_of(run.store, "last") == "first\nmiddle\nlast\n"


def test_the_late_result_of_a_node_that_was_cut_off_changes_nothing(
    cluster: Cluster, run: Run
) -> None:
    cluster.keep("a", "b")
    run.middle = "wait_and_sign"
    driver = run.drive(cluster)
    first = run.started("middle")
    frozen = cluster.processes(cluster.name_of(first.node))
    for process in frozen:
        process.send_signal(signal.SIGSTOP)
    run.started("middle", attempt=2)
    run.go("go-1-2")
    assert driver.end() == 0, driver.said
    (before,) = results(run.store, "middle")

    run.go()
    worker = next(process for process in frozen if process.pid == first.pid)
    worker.send_signal(signal.SIGCONT)
    late = f"artifacts/{before.key.digest}/run-e000001-a001"
    wait_for(lambda: not run.store.list(late), "the late attempt has ended")

    assert results(run.store, "middle") == [before]
    assert text_of(run.store, "last") == "first\nmiddle\nattempt 2\nlast\n"
    assert read_status(run.store, "run").state is RunState.SUCCEEDED
    assert run.ran() == ["first", "middle", "middle", "last"]


def status_of(run: Run, step: str) -> StepStatus:
    return read_status(run.store, "run").steps[step]


def results(store: Store, step: str) -> list[Manifest]:
    """All manifests of the one key of a step."""
    (newest,) = committed_for(store, step)
    return generations(store, newest.key)


def text_of(store: Store, step: str) -> str:
    (manifest,) = committed_for(store, step)
    return read_file(store, manifest, "text").decode()
