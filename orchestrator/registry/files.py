"""Files beside the weights of a registered model: they live as long as it does."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.registry.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

MODEL = "artifacts/model"
"""The Hugging Face folder in a registered model."""

_LOGGED = "models:/"


def attach(client: "MlflowClient", model_id: str, files: Mapping[str, str]) -> None:
    """Add texts, by their paths, to a logged model."""
    with tempfile.TemporaryDirectory(prefix="gammaray-") as scratch:
        for path, text in files.items():
            file = Path(scratch, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        client.log_model_artifacts(model_id, scratch)


def fetch(
    client: "MlflowClient", tracking_uri: str, version: "ModelVersion", path: str, folder: Path
) -> Path:
    """Download a file or folder of a version; returns where it lies below ``folder``.

    Raises:
        RegistryError: If the version was not made of a model that MLflow holds.
        MlflowException: If MLflow is away, or there is no such file.
    """
    from mlflow.artifacts import download_artifacts

    location = client.get_logged_model(logged_model_of(version)).artifact_location
    found = download_artifacts(
        artifact_uri=f"{location.rstrip('/')}/{path}",
        dst_path=str(folder),
        tracking_uri=tracking_uri,
    )
    return Path(found)


def logged_model_of(version: "ModelVersion") -> str:
    """Id of the logged model behind a version.

    Raises:
        RegistryError: If there is none.
    """
    source = str(version.source)
    if not source.startswith(_LOGGED):
        raise RegistryError(
            version.name, f"version {version.version} is no model that MLflow holds, but {source}"
        )
    return source.removeprefix(_LOGGED)
