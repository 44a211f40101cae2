import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli import ExitCode
from orchestrator.tracking import TrackingError, check_reachable, public, resolve_tracking_uri
from orchestrator.tracking.location import artifact_location


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("store", ["/data/run", "file:///data/run", "file:///data/run?shared=true"])
def test_the_default_is_a_database_in_a_local_store(store: str) -> None:
    assert resolve_tracking_uri(None, store) == "sqlite:////data/run/mlflow.db"


def test_a_relative_database_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_tracking_uri("sqlite:///my.db", "/store") == f"sqlite:///{tmp_path}/my.db"


def test_a_remote_store_needs_a_configured_server() -> None:
    assert resolve_tracking_uri("http://mlflow:5000", "s3://b/p") == "http://mlflow:5000"
    with pytest.raises(TrackingError, match=r"s3://b/p; set tracking\.uri"):
        resolve_tracking_uri(None, "s3://b/p")


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("sqlite:////data/mlflow.db", "file:///data/mlflow-artifacts"),
        ("http://mlflow:5000", None),
        ("postgresql+psycopg2://host/db", "s3://bucket/runs/mlflow-artifacts"),
    ],
)
def test_files_of_runs_lie_with_the_database_or_in_the_store_unless_a_server_decides(
    uri: str, location: str | None
) -> None:
    assert artifact_location(uri, "s3://bucket/runs/") == location


def test_passwords_do_not_show() -> None:
    assert public("https://me:secret@mlflow:5000/x") == "https://mlflow:5000/x"


def test_a_server_that_is_not_there_is_an_error_that_says_what_to_do() -> None:
    what = r"127\.0\.0\.1.*cannot be reached.*tracking\.uri"
    with pytest.raises(TrackingError, match=what) as caught:
        check_reachable(f"http://127.0.0.1:{free_port()}")
    assert caught.value.exit_code == ExitCode.RESUMABLE


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_never_answers_costs_the_timeout_only(scheme: str, silent_port: int) -> None:
    with pytest.raises(TrackingError, match="cannot be reached"):
        check_reachable(f"{scheme}://127.0.0.1:{silent_port}", timeout_s=0.2)


def test_a_database_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(TrackingError, match="cannot be reached"):
        check_reachable(f"postgresql+psycopg2://me:pw@127.0.0.1:{free_port()}/db")


@pytest.mark.parametrize(
    "uri", ["./mlruns", "file:///mlruns", "ftp://x", "sqlite://", "sqlite:///"]
)
def test_what_mlflow_does_not_take_is_refused(uri: str) -> None:
    with pytest.raises(TrackingError, match="expected"):
        check_reachable(uri)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, and longer than the header of one" * 20)
    with pytest.raises(TrackingError, match="not a sqlite database"):
        check_reachable(f"sqlite:///{tmp_path}/mlflow.db")


def test_checking_a_new_database_creates_nothing(tmp_path: Path) -> None:
    check_reachable(f"sqlite:///{tmp_path}/new/mlflow.db")
    assert list(tmp_path.iterdir()) == []
