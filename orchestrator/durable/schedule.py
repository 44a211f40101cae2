"""Which steps start now, as resources allow, and which of them one after another in one place.

To start an attempt on a cluster costs more than a quick step does. So steps that were quick so far
share a start: as many as take a tenth of a second together, so that whoever waits behind another
in a batch waits no longer than that.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf

from orchestrator.durable.executor import Capacity
from orchestrator.durable.step import Resources, Step

_AT_ONCE = 256
"""Attempts that run or are queued at the same time, however little they need."""

_WINDOW = 64
"""Steps that may overtake one whose resources are not free."""

LOOKED_AT = _AT_ONCE + _WINDOW
"""Steps that are looked at before it is clear who starts."""

_TOGETHER_S = 0.1
_TOGETHER = 32
"""What a batch may be expected to take, and how many attempts it may hold."""


@dataclass(slots=True)
class Batch:
    """Steps that run one after another, with the resources of one."""

    needs: Resources
    expected_s: float
    steps: list[str] = field(default_factory=list)


class Schedule:
    """Who runs, and how long the attempts of each function took."""

    def __init__(self) -> None:
        self._batches: dict[str, Batch] = {}
        self._taken: Counter[Resources] = Counter()
        self._paces_s: dict[str, float] = {}

    def choose(
        self,
        candidates: Iterable[tuple[Step, bool]],
        capacity: Capacity,
        may_start: Callable[[str], bool],
    ) -> list[Batch]:
        """Take what starts now from steps in order of preference.

        Args:
            candidates: Steps, and whether each may share a batch.
            capacity: Everything there is.
            may_start: Asked last, for a step that would start.
        """
        cpus = capacity.cpus - sum(needs.all_cpus * n for needs, n in self._taken.items())
        gpus = capacity.gpus - sum(needs.all_gpus * n for needs, n in self._taken.items())
        chosen: list[Batch] = []
        skipped = 0
        for step, is_patient in candidates:
            if len(self._batches) >= _AT_ONCE or skipped > _WINDOW:
                break
            needs = step.resources
            batch = None
            if needs.all_cpus <= cpus and needs.all_gpus <= gpus:
                batch = Batch(needs, 0.0)
            elif is_patient:
                batch = self._shared(step, chosen)
            if batch is None:
                skipped += 1
            elif may_start(step.name):
                if not batch.steps:
                    cpus, gpus = cpus - needs.all_cpus, gpus - needs.all_gpus
                    chosen.append(batch)
                    self._taken[needs] += 1
                self._put(step, batch, is_patient=is_patient)
        return chosen

    def follow(self, step: Step, batch: Batch) -> bool:
        """Put a patient step behind those of a batch that is about to start, if it fits there."""
        fits = self._fits(step, batch)
        if fits:
            self._put(step, batch, is_patient=True)
        return fits

    def end(self, step: Step, seconds: float | None) -> None:
        """Take note that an attempt ended, and of how long it took if that is known."""
        batch = self._batches.pop(step.name)
        batch.steps.remove(step.name)
        if not batch.steps:
            self._taken[batch.needs] -= 1
        if seconds is not None:
            before_s = self._paces_s.get(step.function, 0.0)
            # Up at once, down by halves: one slow attempt makes the next ones run alone.
            self._paces_s[step.function] = max(seconds, (before_s + seconds) / 2)

    def _put(self, step: Step, batch: Batch, *, is_patient: bool) -> None:
        batch.steps.append(step.name)
        batch.expected_s += self._pace_s(step) if is_patient else inf
        self._batches[step.name] = batch

    def _shared(self, step: Step, chosen: list[Batch]) -> Batch | None:
        """The emptiest batch that the step can join, if there is one."""
        fits = [batch for batch in chosen if self._fits(step, batch)]
        return min(fits, key=lambda batch: len(batch.steps), default=None)

    def _fits(self, step: Step, batch: Batch) -> bool:
        is_short = batch.expected_s + self._pace_s(step) <= _TOGETHER_S
        return is_short and len(batch.steps) < _TOGETHER and batch.needs == step.resources

    def _pace_s(self, step: Step) -> float:
        return self._paces_s.get(step.function, inf)
