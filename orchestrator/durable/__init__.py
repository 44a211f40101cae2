from orchestrator.artifacts.artifact import Artifact, open_artifact
from orchestrator.artifacts.key import JSON, StepKey, canonical, digest, explain
from orchestrator.artifacts.manifest import Manifest
from orchestrator.durable.context import StepContext
from orchestrator.durable.errors import StepFailedError, TimeIsUpError
from orchestrator.durable.events import Observer
from orchestrator.durable.executor import InProcessExecutor
from orchestrator.durable.failures import Failure
from orchestrator.durable.planning import PlannedStep, plan
from orchestrator.durable.record import list_runs, read_spec, read_status, run_identity
from orchestrator.durable.runner import Runner, RunResult
from orchestrator.durable.step import Approval, Each, External, Resources, Retry, Step, Timer
from orchestrator.store import DurableError, FileRecord, Store, open_store

__all__ = [
    "JSON",
    "Approval",
    "Artifact",
    "DurableError",
    "Each",
    "External",
    "Failure",
    "FileRecord",
    "InProcessExecutor",
    "Manifest",
    "Observer",
    "PlannedStep",
    "Resources",
    "Retry",
    "RunResult",
    "Runner",
    "Step",
    "StepContext",
    "StepFailedError",
    "StepKey",
    "Store",
    "TimeIsUpError",
    "Timer",
    "canonical",
    "digest",
    "explain",
    "list_runs",
    "open_artifact",
    "open_store",
    "plan",
    "read_spec",
    "read_status",
    "run_identity",
]
