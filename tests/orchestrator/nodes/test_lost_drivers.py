"""A run whose driver, or whose whole cluster, is gone: the store alone is enough to go on."""

import shutil
from pathlib import Path

import pytest

from orchestrator.durable import read_status
from orchestrator.durable.states import RunState, StepState
from orchestrator.ownership.epochs import last_epoch
from tests.orchestrator.nodes.conftest import Cluster, Run
from tests.orchestrator.nodes.test_lost_nodes import text_of

pytestmark = pytest.mark.ray


def test_a_run_goes_on_when_its_driver_died_with_its_node(cluster: Cluster, run: Run) -> None:
    cluster.keep("a")
    cluster.add("b", ip="127.0.0.2")
    driver = run.drive(cluster, ip="127.0.0.2", machine="machine-b")
    run.started("middle")
    driver.process.kill()
    cluster.kill("b")
    run.go()
    second = run.drive(cluster, machine="machine-c")
    assert second.end() == 0, second.said
    assert "left by process" in second.said
    assert "on machine-b (epoch 1)" in second.said
    assert "first: reused" in second.said
    assert run.ran().count("first") == 1
    assert last_epoch(run.store, "run") == 2
    assert text_of(run.store, "last") == "first\nmiddle\nlast\n"


def test_a_driver_that_outlives_its_node_ends_resumable(cluster: Cluster, run: Run) -> None:
    cluster.keep("a")
    cluster.add("b", ip="127.0.0.2")
    driver = run.drive(cluster, ip="127.0.0.2", machine="machine-b")
    run.started("middle")
    cluster.kill("b")
    assert driver.end() == 3, driver.said
    assert "has lost the driver's node: give the same command again" in driver.said
    assert read_status(run.store, "run").state is RunState.RESUMABLE
    run.go()
    second = run.drive(cluster, machine="machine-b")
    assert second.end() == 0, second.said
    assert text_of(run.store, "last") == "first\nmiddle\nlast\n"


def test_without_its_head_a_driver_ends_resumable_and_another_cluster_goes_on(
    cluster: Cluster, run: Run, tmp_path: Path
) -> None:
    cluster.keep("a")
    driver = run.drive(cluster)
    run.started("middle")
    lost = cluster.address
    cluster.kill("head")
    assert driver.end() == 3, driver.said
    assert f"the head of the Ray cluster at {lost} has not answered" in driver.said
    assert "give the same command again when a cluster is there" in driver.said
    status = read_status(run.store, "run")
    assert status.state is RunState.RESUMABLE
    assert status.steps["middle"].state is StepState.CANCELLED

    cluster.keep("z")
    assert cluster.address != lost
    elsewhere = Run(tmp_path / "elsewhere", run.leaving)
    elsewhere.folder.mkdir()
    shutil.move(run.folder / "store", elsewhere.folder / "store")
    elsewhere.go()
    second = elsewhere.drive(cluster, machine="machine-z")
    assert second.end() == 0, second.said
    assert "first: reused" in second.said
    assert elsewhere.ran() == ["middle", "last"]
    assert text_of(elsewhere.store, "last") == "first\nmiddle\nlast\n"
