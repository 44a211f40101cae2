"""What is recorded once stays so when an MLflow server keeps it in PostgreSQL."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.chaos.tracking_server import TrackingServer
from orchestrator.durable import Store
from orchestrator.tracking import MLflowTracker, TrackedRun
from tests.orchestrator.tracking.test_tracker import (  # noqa: F401 - collected here again
    run,
    test_a_request_whose_answer_was_lost_is_repeated_and_no_point_appears_twice,
    test_a_resumed_run_writes_into_the_same_runs_and_no_point_twice,
    test_a_run_is_a_parent_with_a_child_per_step,
    test_a_step_names_the_dataset_that_it_read_once,
    test_a_step_that_runs_again_after_it_had_finished_replaces_its_child,
    test_a_step_whose_end_was_not_recorded_is_completed_when_it_is_reused,
    test_the_state_of_a_machine_is_told_by_the_second_and_a_resumed_run_goes_on_with_it,
    track,
)
from tests.postgres_server import running_postgres

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of the database itself."""
    # pytest's own folders are closed to the account that PostgreSQL runs as.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    folder.chmod(0o755)
    try:
        with running_postgres(folder) as found:
            yield found
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    server = TrackingServer(tmp_path_factory.mktemp("server"), os.environ, database=address)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def uri(server: TrackingServer) -> Iterator[str]:
    """The same server for every test, with an experiment of its own."""
    yield server.uri
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    client.rename_experiment(experiment.experiment_id, f"demo {experiment.experiment_id}")


def test_files_of_runs_go_to_the_store_where_no_server_stands_before_the_database(
    address: str, store: Store
) -> None:
    alone = TrackedRun(run_id="alone-1", name="alone", recipe={"seed": 0})
    tracker = MLflowTracker(address, "direct", run=alone, store=store, tell=pytest.fail)
    tracker.open()
    assert not tracker.close("FINISHED", timeout_s=300.0)
    files = store.local_path("mlflow-artifacts")
    assert files is not None
    assert [path.name for path in files.rglob("*.json")] == ["recipe.json"]
