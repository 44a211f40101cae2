"""What a sweep has done so far, as objects of the store that are only ever created.

The values of a trial are written before it starts and its end once it is known, so whoever goes on
with a sweep starts from the same trials and runs none of them twice.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from orchestrator.store import Store

State = Literal["finished", "stopped", "failed", "running"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """One trial."""

    number: int
    run_id: str
    """The plain run that it is."""
    values: Mapping[str, Any]
    predicted: Mapping[str, float] = field(default_factory=dict)
    """Shares of the dense twin that closed form told before it ran."""
    state: State = "running"
    figures: Mapping[str, float] = field(default_factory=dict)
    """Of a finished trial; of one that was stopped early, ``step`` and ``loss``."""
    reason: str = ""
    """Why it failed, or was stopped."""
    seconds: float = 0.0
    reports: tuple[tuple[int, float], ...] = ()
    """Optimizer steps and losses by which it was compared with others."""


class Journal:
    """The trials of one sweep, in its run's folder of the store."""

    def __init__(self, store: Store, sweep_id: str) -> None:
        self._store, self._folder = store, f"runs/{sweep_id}/trials"
        self.trials: list[TrialRecord] = self._read()

    def begin(self, trial: TrialRecord) -> None:
        """Write down the values of the next trial."""
        self._write(trial, "begun")
        self.trials.append(trial)

    def end(self, trial: TrialRecord) -> None:
        """Write down how a trial ended. One that failed is tried again by the next search."""
        self.trials[trial.number] = trial
        if trial.state != "failed":
            self._write(trial, "ended")

    def _write(self, trial: TrialRecord, name: str) -> None:
        text = json.dumps(asdict(trial), sort_keys=True, allow_nan=False)
        self._store.create(f"{self._folder}/{trial.number:05d}/{name}.json", text.encode())

    def _read(self) -> list[TrialRecord]:
        paths = self._store.list(self._folder)
        found = {}
        for path in sorted(path for path in paths if path.endswith("/begun.json")):
            trial = _parse(self._store.read(path))
            ended = path.replace("/begun.json", "/ended.json")
            found[trial.number] = _parse(self._store.read(ended)) if ended in paths else trial
        return [found[number] for number in range(len(found))]


def _parse(data: bytes) -> TrialRecord:
    record = TrialRecord(**json.loads(data))
    return replace(record, reports=tuple((step, loss) for step, loss in record.reports))
