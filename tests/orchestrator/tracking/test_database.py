from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.tracking.database import create_database
from orchestrator.tracking.records import open_client


def experiments(database: Path) -> int:
    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    return len(client.search_experiments())


def test_a_new_database_is_complete_and_alone(tmp_path: Path) -> None:
    database = tmp_path / "folder" / "mlflow.db"
    create_database(database)
    assert experiments(database) == 1
    assert [file.name for file in database.parent.iterdir()] == ["mlflow.db"]


def test_what_stops_in_the_midst_leaves_nothing_and_the_next_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "mlflow.db"
    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "search_experiments", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            open_client(f"sqlite:///{database}")
    assert list(tmp_path.iterdir()) == []
    open_client(f"sqlite:///{database}").create_experiment("mine")
    assert experiments(database) == 2


def test_a_database_that_another_process_made_first_stays(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    open_client(f"sqlite:///{database}").create_experiment("mine")
    create_database(database)
    assert experiments(database) == 2
