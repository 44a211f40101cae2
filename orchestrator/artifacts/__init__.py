from orchestrator.artifacts.artifact import Artifact, open_artifact
from orchestrator.artifacts.errors import ArtifactChangedError
from orchestrator.artifacts.key import JSON, StepKey
from orchestrator.artifacts.manifest import Manifest

__all__ = ["JSON", "Artifact", "ArtifactChangedError", "Manifest", "StepKey", "open_artifact"]
