import shutil
from pathlib import Path

import pytest

from orchestrator.artifacts.manifest import Manifest
from orchestrator.durable import StepKey, Store, open_store
from orchestrator.tracking.records import open_client


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's sqlite database, made once: its migrations take more than a second."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    open_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(empty_database: Path, tmp_path: Path) -> str:
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


class Committer:
    """Commits results as the durable runner does: files under a root, and a manifest."""

    def __init__(self, store: Store, tmp_path: Path) -> None:
        self._store, self._tmp_path = store, tmp_path

    def __call__(self, step: str, files: dict[str, str]) -> Manifest:
        root = f"artifacts/{step}"
        records = []
        for name, text in files.items():
            local = self._tmp_path / name
            local.write_text(text)
            record = self._store.upload(local, f"{root}/result/{name}")
            records.append(type(record)(name, record.size, record.sha256))
        return Manifest(
            key=StepKey(name=step, version=1, params={}, inputs={"data": "d" * 64}),
            generation=0,
            root=root,
            files=tuple(records),
            measurements=(),
            values={"run_id": "another-run", "host": "somewhere", "seconds": 1.5},
        )


@pytest.fixture
def commit(store: Store, tmp_path: Path) -> Committer:
    return Committer(store, tmp_path)
