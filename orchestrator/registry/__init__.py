from orchestrator.registry.card import CARD, Subject, describe, model_card, read_mod
from orchestrator.registry.decision import Decision, Verdict
from orchestrator.registry.errors import RegistryError
from orchestrator.registry.evidence import Evidence
from orchestrator.registry.lookup import aliases_of, existing_version, version_of
from orchestrator.registry.promotion import Promoter, telling_when_away
from orchestrator.registry.version import (
    Registration,
    check_name,
    has_version,
    register_model,
)

__all__ = [
    "CARD",
    "Decision",
    "Evidence",
    "Promoter",
    "Registration",
    "RegistryError",
    "Subject",
    "Verdict",
    "aliases_of",
    "check_name",
    "describe",
    "existing_version",
    "has_version",
    "model_card",
    "read_mod",
    "register_model",
    "telling_when_away",
    "version_of",
]
