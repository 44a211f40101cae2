"""What was replaced in a training, as it is listed at its end."""

from dataclasses import asdict
from typing import Any

from workloads.data import TrainingBatches
from workloads.training.ranks import Ranks


def all_replaced(batches: TrainingBatches, ranks: Ranks) -> tuple[dict[str, Any], ...]:
    """What all ranks replaced, as JSON in the order of training; called by every rank."""
    of_ranks = ranks.gather(batches.replaced)
    found = {(each.step, each.position): each for part in of_ranks for each in part}
    return tuple(asdict(found[key]) for key in sorted(found))
