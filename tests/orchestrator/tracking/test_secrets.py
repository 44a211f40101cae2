"""Plants a secret wherever a user may have one, and looks for it in all that is written."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.chaos.tracking_server import TrackingServer
from orchestrator.commands.run import how_to_start
from orchestrator.durable import InProcessExecutor, Runner, Step, Store, open_store
from orchestrator.durable.errors import StepFailedError
from orchestrator.observers import Observers
from orchestrator.recipe_file import load_recipe
from orchestrator.runs.log import RunLog, read_log
from orchestrator.secrets import without_credentials
from orchestrator.store import StoreError
from orchestrator.tracking import MLflowTracker, TrackedRun
from orchestrator.tracking.records import open_client
from tests.orchestrator.small_run import OVERRIDES

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

SECRET = "pl4nted"
ADDRESS = f"http://me:{SECRET}@mlflow.example:5000"
ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_ENDPOINT_URL_S3": f"http://me:{SECRET}@127.0.0.1:1",
    "HF_TOKEN": SECRET,
    "MLFLOW_TRACKING_PASSWORD": SECRET,
}


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def holding(folder: Path) -> Iterator[str]:
    """Files below ``folder`` that hold the secret, in their name or their bytes."""
    for path in folder.rglob("*"):
        if SECRET in path.name or (path.is_file() and SECRET.encode() in path.read_bytes()):
            yield str(path.relative_to(folder))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
        ("postgresql://me:a%2Fb@host:5432/db", "postgresql://host:5432/db"),
        (
            "cannot reach http://me:p@ss@host/x?y=me@b: why",
            "cannot reach http://host/x?y=me@b: why",
        ),
        ("mysql://host/db?password=pl4nted&x=1", "mysql://host/db?password=***&x=1"),
        ("s3://bucket/key/a@b", "s3://bucket/key/a@b"),
        ("https://token@host/", "https://host/"),
    ],
)
def test_an_address_keeps_everything_but_its_credentials(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_how_to_start_a_run_again_holds_no_password() -> None:
    overrides = [f"tracking.uri={ADDRESS}", "seed=1"]
    args = argparse.Namespace(verb="run", recipe="digits", overrides=overrides, to=[])
    assert how_to_start(args)["overrides"] == [
        "tracking.uri=http://mlflow.example:5000",
        "seed=1",
    ]


def test_a_recipe_is_recorded_without_its_addresses() -> None:
    recipe = load_recipe("digits", [f"tracking.uri={ADDRESS}"])
    assert SECRET not in json.dumps(recipe.identity())


def test_a_store_address_with_credentials_is_refused_without_repeating_them() -> None:
    for url in (f"s3://me:{SECRET}@bucket/runs", f"s3://bucket/runs?secret={SECRET}"):
        with pytest.raises(StoreError, match="holds credentials or options") as refused:
            open_store(url)
        assert SECRET not in str(refused.value)


def test_a_run_whose_error_repeats_the_address_writes_no_password(
    uri: str, store: Store, tmp_path: Path
) -> None:
    run = TrackedRun(run_id="run", name="run", recipe={"seed": 0})
    step = Step(
        name="talk",
        function="tests.orchestrator.durable.functions:repeat_the_address",
        settings={"address": ADDRESS},
    )
    told: list[str] = []
    tracker = MLflowTracker(uri, "demo", run=run, store=store, tell=told.append)
    with (
        closing(RunLog(store, "run")) as log,
        pytest.raises(StepFailedError) as failed,
    ):
        Runner(
            "run",
            [step],
            store,
            start_executor=InProcessExecutor,
            observer=Observers(tracker, log),
            metadata={"address": without_credentials(ADDRESS)},
        ).run()
    tracker.close("FAILED")
    assert "API request to http://mlflow.example:5000/api/2.0 failed" in read_log(store, "run")
    child = open_client(uri).search_runs(["1"], "tags.`gammaray.step` = 'talk'")[0]
    assert "http://mlflow.example:5000" in child.data.tags["gammaray.failure"]
    assert SECRET not in str(failed.value)
    assert SECRET not in "".join(told)
    assert list(holding(tmp_path)) == []


@pytest.mark.slow
@pytest.mark.ray
def test_a_whole_run_writes_no_secret(tmp_path: Path) -> None:
    """MLflow, run log, what steps print, records, report and terminal."""
    server = TrackingServer(tmp_path, os.environ)
    server.start()
    try:
        address = server.uri.replace("://", f"://me:{SECRET}@")
        command = [str(Path(sys.executable).with_name("gammaray")), "run", "digits", *OVERRIDES]
        command += [f"tracking.uri={address}", "register.promote.min_questions=1"]
        done = subprocess.run(
            [*command, "--store", str(tmp_path / "store")],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | ENVIRONMENT,
        )
    finally:
        server.stop()
    assert done.returncode == 0, done.stderr
    assert "models:/digits-mod/1" in done.stdout
    assert SECRET not in done.stdout + done.stderr
    assert (tmp_path / "mlflow.db").exists()
    assert list(holding(tmp_path)) == []
    shutil.rmtree(tmp_path / "store")
