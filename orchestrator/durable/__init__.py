from orchestrator.durable.artifact import Artifact
from orchestrator.durable.context import StepContext
from orchestrator.durable.errors import DurableError
from orchestrator.durable.key import JSON, StepKey, canonical, digest, explain
from orchestrator.durable.step import External, Resources, Retry, Step
from orchestrator.durable.store import FileRecord, Store, open_store

__all__ = [
    "JSON",
    "Artifact",
    "DurableError",
    "External",
    "FileRecord",
    "Resources",
    "Retry",
    "Step",
    "StepContext",
    "StepKey",
    "Store",
    "canonical",
    "digest",
    "explain",
    "open_store",
]
