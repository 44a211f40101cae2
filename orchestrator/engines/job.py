"""One training as it travels to its workers; importing this needs no torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from orchestrator.checkpoints import CheckpointPlace
from orchestrator.engines.exchange import Exchange
from workloads.reporting import Reporter
from workloads.training import TrainingConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingJob:
    """What to train on what, and where everything is kept."""

    config: TrainingConfig
    model: Path
    """Model folder to start from, dense or converted."""

    shard: Path
    """Arrow shard of training samples."""

    output: Path
    """Directory for ``model/`` and ``history.json``, on the machine of the stage."""

    checkpoints: CheckpointPlace
    exchange: Exchange
    """Carries inputs and result where the store is no directory that all processes see."""

    reporter: Reporter
    threads: int
    """CPU threads of one worker."""

    stop_at_s: float | None = None
    """When to save and stop, in seconds since the epoch."""

    watches_machines: bool = False
    """Whether it is told how busy each machine is."""

    hears_of_preemption: bool = False
    """Whether Ray Train watches for machines that are about to be taken away."""

    def send_inputs(self) -> None:
        """Make the inputs available to workers on other machines."""
        if self.exchange.is_needed:
            self.exchange.send(self.model, "model")
            self.exchange.send(self.shard, "shard")

    def on_this_machine(self, scratch: Path) -> Self:
        """Return the job with inputs that this worker can open, brought here if need be."""
        if self.model.exists() and self.shard.exists():
            return self
        self.exchange.fetch("model", scratch / "model")
        self.exchange.fetch("shard", scratch / "shard")
        file = scratch / "shard" / self.shard.name
        shard = file if file.exists() else file.parent  # a shard may be a folder of files
        return replace(self, model=scratch / "model", shard=shard)

    @contextmanager
    def result_folder(self, scratch: Path) -> Iterator[Path]:
        """A folder for the result files, sent to the stage's machine at the end if need be."""
        if not self.exchange.is_needed:
            yield self.output
            return
        folder = scratch / "result"
        folder.mkdir()
        yield folder
        self.exchange.send(folder, "result")

    def fetch_result(self) -> None:
        """Bring the result to the stage's machine."""
        if self.exchange.is_needed:
            self.exchange.fetch("result", self.output)
