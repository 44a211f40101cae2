"""Where a step keeps its training checkpoints: in the run's store, below the key's prefix."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.durable import StepContext, open_store

if TYPE_CHECKING:
    from workloads.training import Checkpoints, Ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointPlace:
    """What a worker needs to open the checkpoints of a step; travels to any machine.

    Every attempt of every owner of a run writes into a folder of its own and reads all of them,
    so a lost worker, a killed driver and a restarted job continue in the same way, and a driver
    that wakes up late writes where it harms nobody.
    """

    store_url: str
    prefix: str
    writer: str
    predecessors: str
    """What the names of the same run's attempts start with; earlier ones are over."""

    @classmethod
    def of(cls, context: StepContext) -> "CheckpointPlace":
        """Return the place of a step's checkpoints."""
        return cls(
            store_url=context.store.url,
            prefix=context.checkpoint_prefix,
            writer=context.writer,
            predecessors=f"{context.run_id}-",
        )

    def open(self, ranks: "Ranks", warn: Callable[[str], None]) -> "Checkpoints":
        """Open it on a worker."""
        from workloads.training import Checkpoints

        return Checkpoints(
            objects=open_store(self.store_url),
            prefix=self.prefix,
            writer=self.writer,
            predecessors=self.predecessors,
            ranks=ranks,
            warn=warn,
        )
