"""A model of the registry without a run that made it."""

from pathlib import Path

from mlflow import MlflowClient

from orchestrator.registry.package import log_model
from orchestrator.tracking.records import Records

NAME = "digits-mod"


def register_champion(uri: str, model_folder: Path) -> None:
    """Make a model folder the first version, with the alias ``champion``."""
    records = Records(uri, "demo", str(model_folder.parent))
    info = log_model(uri, records.experiment_id, model_folder, name=NAME, run_id=None)
    client: MlflowClient = records.client
    client.create_registered_model(NAME)
    version = client.create_model_version(NAME, info.model_uri, model_id=info.model_id)
    client.set_registered_model_alias(NAME, "champion", version.version)
