"""Which versions a registered model has, by number and by alias."""

from typing import TYPE_CHECKING

from orchestrator.registry.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_MISSING = "RESOURCE_DOES_NOT_EXIST"


def aliases_of(client: "MlflowClient", name: str) -> dict[str, str]:
    """Alias to version.

    Raises:
        RegistryError: If there is no such model.
    """
    from mlflow.exceptions import MlflowException

    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != _MISSING:
            raise
        raise RegistryError(name, "there is none of this name") from error
    return {alias: str(version) for alias, version in model.aliases.items()}


def version_of(client: "MlflowClient", name: str, asked: str) -> str:
    """A version by its number, which need not exist, or by its alias.

    Raises:
        RegistryError: If there is no such model or alias.
    """
    aliases = aliases_of(client, name)
    if asked.isdecimal() or asked in aliases:
        return aliases.get(asked, asked)
    known = ", ".join(sorted(aliases)) or "none"
    raise RegistryError(name, f"no version has the alias {asked!r}; the aliases are: {known}")


def existing_version(client: "MlflowClient", name: str, asked: str) -> "ModelVersion":
    """The version that a number or an alias names.

    Raises:
        RegistryError: If there is none.
    """
    from mlflow.exceptions import MlflowException

    version = version_of(client, name, asked)
    try:
        return client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code != _MISSING:
            raise
        raise RegistryError(name, f"there is no version {version}") from error
