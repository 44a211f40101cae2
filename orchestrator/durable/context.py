"""What a step's function is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.artifacts.artifact import Artifact
from orchestrator.artifacts.key import JSON
from orchestrator.durable.events import Reporter
from orchestrator.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class StepContext:
    """All that a step's function may know; it returns nothing and writes to ``output``."""

    run_id: str
    step: str
    key: str
    epoch: int
    """Which ownership of the run this belongs to, from 1; part of checkpoint paths."""

    attempt: int
    """Which try within the epoch, from 1."""

    store: Store
    params: Mapping[str, JSON]
    settings: Mapping[str, JSON]
    inputs: Mapping[str, Artifact]
    output: Path
    """Directory for result files: their names and contents make the result digest."""

    measurement: Path
    """Directory for measurement files: times, hosts, reports; outside the digest."""

    checkpoint_prefix: str
    """Folder in the store for training checkpoints of this key, shared by all its epochs and
    attempts and removed after the commit. Write below ``{prefix}/{writer}/``."""

    reporter: Reporter

    stop_at_s: float | None = None
    """When to save what can be saved and stop, in seconds since the epoch; None for never."""

    @property
    def writer(self) -> str:
        """Name of this attempt, unique among all runs of a store."""
        return f"{self.run_id}-e{self.epoch:06d}-a{self.attempt:03d}"
