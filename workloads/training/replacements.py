"""Which samples of a training were replaced, kept with its checkpoints and listed at its end."""

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workloads.data import TrainingBatches
from workloads.training.checkpoints.store import CheckpointStore
from workloads.training.ranks import Ranks


@dataclass(frozen=True, slots=True)
class WithReplacements:
    """A `CheckpointStore` whose checkpoints also tell what the batches replaced so far.

    So a resumed training lists what an undisturbed one does.
    """

    store: CheckpointStore
    batches: TrainingBatches

    def restore(self, layout: str, load: Callable[[Path], None]) -> int | None:
        """Restore both."""
        return self.store.restore(layout, _both(load, self.batches.load))

    def roll_back(self, step: int, layout: str, load: Callable[[Path], None]) -> int | None:
        """Restore both."""
        return self.store.roll_back(step, layout, _both(load, self.batches.load))

    def save(
        self,
        step: int,
        layout: str,
        write: Callable[[Path], None],
        *,
        protected: Collection[int] = (),
    ) -> None:
        """Save both."""
        self.store.save(step, layout, _both(write, self.batches.save), protected=protected)

    @property
    def is_uploaded(self) -> bool:
        """As the store says."""
        return self.store.is_uploaded

    def finish(self) -> str | None:
        """As the store does."""
        return self.store.finish()


def all_replaced(batches: TrainingBatches, ranks: Ranks) -> tuple[dict[str, Any], ...]:
    """What all ranks replaced, as JSON in the order of training; called by every rank."""
    of_ranks = ranks.gather(batches.replaced)
    found = {(each.step, each.position): each for part in of_ranks for each in part}
    return tuple(asdict(found[key]) for key in sorted(found))


def _both(first: Callable[[Path], None], second: Callable[[Path], None]) -> Callable[[Path], None]:
    def call(folder: Path) -> None:
        first(folder)
        second(folder)

    return call
