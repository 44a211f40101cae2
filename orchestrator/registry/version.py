"""A model version in MLflow's registry: made once for the same model, and found again."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.registry.card import CARD
from orchestrator.registry.errors import RegistryError
from orchestrator.registry.evidence import EVIDENCE_TAG, FOLDER, Evidence
from orchestrator.registry.files import MODEL, attach, logged_model_of
from orchestrator.registry.package import log_model
from orchestrator.tracking.location import public
from orchestrator.tracking.records import Records, open_client
from orchestrator.tracking.session import identity
from orchestrator.tracking.shortcut import versions

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

DIGEST_TAG = "gammaray.digest"
CANDIDATE = "candidate"


@dataclass(frozen=True, kw_only=True)
class Registration:
    """Where a registered model is found again."""

    name: str
    version: str
    uri: str
    """Such as ``models:/digits-mod/3``: this version, whatever the aliases become."""
    tracking_uri: str
    """Without user name and password."""
    digest: str
    """Of the model artifact that was registered."""

    def to_json(self) -> dict[str, str]:
        """The fields as plain values."""
        return asdict(self)


def register_model(
    records: Records,
    model: Path,
    *,
    name: str,
    digest: str,
    tags: Mapping[str, str],
    description: str,
    card: str,
    evidence: Evidence,
    tracking_uri: str,
    run_id: str,
    step: str,
) -> Registration:
    """Make a model folder the ``candidate`` version of ``name``.

    A version of the same digest is taken as it is, so that a repeated registration changes
    nothing but the alias; one that was measured anew gets the new figures. A version is there with
    its card, its predictions and its tags, or not at all.

    Args:
        records: MLflow, with the experiment that the model is logged to.
        model: Hugging Face folder with its processor, dense or converted.
        name: Name in the registry.
        digest: Digest of the artifact that ``model`` belongs to.
        tags: What a person should know of the version: figures, lineage.
        description: The same in words.
        card: ``README.md`` of the folder.
        evidence: What a promotion is decided on.
        tracking_uri: Where ``records`` are.
        run_id: Pipeline run.
        step: Its step whose MLflow run the version is linked to, if that run is there.

    Raises:
        RegistryError: If the name belongs to something else.
        MlflowException: If MLflow is away or refuses.
    """
    client = records.client
    check_name(client, name)
    tags = {**tags, DIGEST_TAG: digest, EVIDENCE_TAG: evidence.digest}
    files = {
        f"{FOLDER}/{evidence.digest}.json": json.dumps(evidence.to_json()),
        f"{MODEL}/{CARD}": card,
    }
    found = find_version(client, name, digest)
    if found is None:
        mlflow_run = records.find(identity(run_id, step))
        info = log_model(tracking_uri, records.experiment_id, model, name=name, run_id=mlflow_run)
        attach(client, info.model_id, files)
        _create_name(client, name)
        found = client.create_model_version(
            name,
            source=info.model_uri,
            run_id=mlflow_run,
            model_id=info.model_id,
            tags=tags,
            description=description,
        )
    elif found.tags.get(EVIDENCE_TAG) != evidence.digest:
        attach(client, logged_model_of(found), files)
        client.update_model_version(name, found.version, description)
        for key, value in tags.items():
            client.set_model_version_tag(name, found.version, key, value)
    client.set_registered_model_alias(name, CANDIDATE, found.version)
    return Registration(
        name=name,
        version=str(found.version),
        uri=f"models:/{name}/{found.version}",
        tracking_uri=public(tracking_uri),
        digest=digest,
    )


def check_name(client: "MlflowClient", name: str) -> None:
    """Find out whether gammaray may add a version to ``name``.

    Raises:
        RegistryError: If it is the name of a prompt, or of somebody else's model.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        if client.get_prompt(name) is not None:
            raise RegistryError(
                name, "is the name of a prompt; choose another register.name"
            ) from error
        return
    versions = client.search_model_versions(f"name = '{name}'")
    if versions and not any(DIGEST_TAG in version.tags for version in versions):
        raise RegistryError(
            name,
            f"has {len(versions)} versions, none of which gammaray made; choose another "
            "register.name",
        )


def find_version(client: "MlflowClient", name: str, digest: str) -> "ModelVersion | None":
    """The newest version of ``name`` that was made of the artifact ``digest``."""
    found = client.search_model_versions(
        f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'",
        order_by=["version_number DESC"],
        max_results=1,
    )
    return found[0] if found else None


def has_version(registration: Registration, tracking_uri: str) -> bool:
    """Whether a registration is still there; asks sqlite without importing MLflow."""
    name, version, digest = registration.name, registration.version, registration.digest
    count = versions(tracking_uri, name, version, digest)
    if count is not None:
        return count > 0
    client = open_client(tracking_uri)
    return any(
        str(found.version) == version
        for found in client.search_model_versions(
            f"name = '{name}' and tags.`{DIGEST_TAG}` = '{digest}'"
        )
    )


def _create_name(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
