"""What `gammaray serve` says before it starts anything."""

import json
import socket
from pathlib import Path

import pytest

from orchestrator.cli import ExitCode, main
from orchestrator.serving.source import local_source, registered_source
from tests.orchestrator.registry.versions import NAME, Versions, measured

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")


@pytest.fixture
def versions(uri: str) -> Versions:
    versions = Versions(uri)
    for _ in range(2):
        versions.add(measured())
    versions.client.set_registered_model_alias(NAME, "champion", "1")
    return versions


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["serve", *arguments]) == ExitCode.WRONG_USAGE
    return capsys.readouterr().err


def test_a_folder_that_is_no_models_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such folder" in refused(capsys, str(tmp_path / "none"))
    assert "has no config.json" in refused(capsys, str(tmp_path))


def test_a_wrong_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--max-batch: expected at least 1, got 0" in refused(capsys, "digits", "--max-batch=0")


def test_a_taken_port_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert f"cannot listen on 127.0.0.1:{port}" in refused(capsys, "digits", "--port", port)


def test_a_key_that_is_not_set_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "digits", "--api-key-env", "NO_SUCH_KEY")
    assert "the variable NO_SUCH_KEY is not set, or empty" in told


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("models:/nobody@champion", "registered model 'nobody': there is none of this name"),
        (f"models:/{NAME}@best", "no version has the alias 'best'; the aliases are: champion"),
        (f"models:/{NAME}/9", "there is no version 9"),
        (f"models:/{NAME}", "expected models:/NAME@ALIAS or models:/NAME/VERSION"),
    ],
)
def test_what_the_registry_does_not_have_is_named(
    versions: Versions,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
    message: str,
) -> None:
    assert message in refused(capsys, model, "--store", str(tmp_path))


def test_a_store_without_mlflow_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(capsys, "models:/a@champion", "--store", str(tmp_path))
    assert "there is no such database" in told


def test_an_alias_is_resolved_once_for_all_replicas(versions: Versions) -> None:
    source = registered_source(f"models:/{NAME}@champion", versions.uri)
    versions.client.set_registered_model_alias(NAME, "champion", "2")
    assert (source.name, source.version) == (NAME, "1")


def test_a_folder_is_opened_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps({}))
    source = local_source(str(tmp_path / "tiny"))
    with source.opened() as folder:
        assert (source.name, folder) == ("tiny", tmp_path / "tiny")
