"""Where a served model comes from: a folder, or a version of a registered model."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.registry import existing_version
from orchestrator.registry.files import MODEL, fetch
from orchestrator.serving.errors import ServingError
from orchestrator.tracking.records import open_client
from workloads.models import resolve_model

_SCHEME = "models:/"
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A folder that every node sees, or a version that each node fetches for itself."""

    name: str
    """What clients call it by default."""
    folder: str | None = None
    version: str | None = None
    tracking_uri: str | None = None

    @contextmanager
    def opened(self) -> Iterator[Path]:
        """Its folder on this machine, which may be gone afterwards.

        Raises:
            RegistryError: If the version is no longer there.
        """
        if self.folder is not None:
            yield Path(self.folder)
            return
        assert self.tracking_uri is not None
        assert self.version is not None
        client = open_client(self.tracking_uri)
        found = existing_version(client, self.name, self.version)
        with tempfile.TemporaryDirectory(prefix="gammaray-") as scratch:
            yield fetch(client, self.tracking_uri, found, MODEL, Path(scratch))


def is_registered(model: str) -> bool:
    """Whether MODEL means a version in the registry."""
    return model.startswith(_SCHEME)


def local_source(model: str) -> Source:
    """A folder, or an embedded model by its name.

    Raises:
        ModelError: If there is no such folder, or it is no model's.
    """
    folder = resolve_model(model)
    return Source(name=folder.name, folder=str(folder))


def registered_source(model: str, tracking_uri: str) -> Source:
    """``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``; an alias is resolved for all replicas.

    Raises:
        RegistryError: If there is no such model, alias or version.
        ServingError: If it is written in another way.
    """
    match = _REGISTERED.fullmatch(model)
    if match is None:
        raise ServingError(f"{model!r}: expected models:/NAME@ALIAS or models:/NAME/VERSION")
    name, asked = match["name"], match["alias"] or match["version"]
    found = existing_version(open_client(tracking_uri), name, asked)
    return Source(name=name, version=str(found.version), tracking_uri=tracking_uri)
