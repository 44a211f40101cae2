from orchestrator.registry.card import CARD, Subject, describe, model_card, read_mod
from orchestrator.registry.decision import Decision, Verdict
from orchestrator.registry.errors import RegistryError
from orchestrator.registry.evidence import Evidence
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
    "check_name",
    "describe",
    "has_version",
    "model_card",
    "read_mod",
    "register_model",
    "telling_when_away",
]
