import shutil
import warnings
from pathlib import Path

import pytest

from orchestrator.tracking.records import open_client
from tests.orchestrator.small_llava import small_llava
from workloads.mod import MoDConfig, convert
from workloads.model_folder import save_model_folder

with warnings.catch_warnings():
    # It tells at import that its own type hints are vague.
    warnings.simplefilter("ignore")
    import mlflow.pyfunc


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted Llava of two layers with random weights."""
    model, processor = small_llava(layers=2, patch_pixels=16)
    convert(model, MoDConfig.gamma(layers=[1], capacity_ratio=0.5))
    folder = tmp_path_factory.mktemp("artifact") / "model"
    save_model_folder(model, processor, folder)
    return folder


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's sqlite database, made once: its migrations take more than a second."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    open_client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def uri(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    address = f"sqlite:///{tmp_path}/mlflow.db"
    # Registering sets what MLflow calls its tracking URI for the whole process.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    mlflow.set_tracking_uri(address)
    return address
