"""What Ray Tune asks for trials and tells about them: everything goes through the journal."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ray.tune.search import Searcher

from orchestrator.search_space import Sweep
from orchestrator.sweep.journal import Journal, TrialRecord
from orchestrator.sweep.judge import Verdict
from orchestrator.sweep.suggest import suggest
from orchestrator.sweep.trial import Order


class JournalSearcher(Searcher):
    """Goes on with trials that were begun, then asks for new ones, at most ``sweep.trials``.

    Args:
        sweep: What is searched.
        journal: What has been done so far.
        judge: Says of a number and values what trial they would be.
        order: Makes of a trial what its actor has to know.
        tell: Hears of every trial that ends.
    """

    def __init__(
        self,
        sweep: Sweep,
        journal: Journal,
        *,
        judge: Callable[[int, dict[str, Any]], Verdict],
        order: Callable[[TrialRecord], Order],
        tell: Callable[[TrialRecord], None],
    ) -> None:
        super().__init__()
        self._refused: dict[str, str] = {}
        self._sweep, self._journal = sweep, journal
        self._judge, self._order, self._tell = judge, order, tell
        self._unfinished = [t for t in journal.trials if t.state == "running"]
        self._live: dict[str, TrialRecord] = {}

    @property
    def refused(self) -> Counter[str]:
        """How many values were not tried, by the reason."""
        return Counter(self._refused.values())

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]
        """The next trial, or that there is none."""
        trial = self._unfinished.pop(0) if self._unfinished else self._new()
        if trial is None:
            return Searcher.FINISHED
        self._live[trial_id] = trial
        return {"order": self._order(trial)}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Remember a loss by which the trial was compared."""
        trial = self._live[trial_id]
        if "loss" in result:
            reports = (*trial.reports, (int(result["step"]), float(result["loss"])))
            self._live[trial_id] = replace(trial, reports=reports)

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Write down how it ended; one that was lost stays begun."""
        trial = self._live.pop(trial_id)
        if error or result is None:
            return
        if "state" not in result and "loss" in result:
            self.on_last_result(trial, result)
            return
        figures = {
            name.removeprefix("figures/"): float(value)
            for name, value in result.items()
            if name.startswith("figures/")
        }
        self._end(trial, result, state=result["state"], figures=figures, reason=result["reason"])

    def on_last_result(self, trial: TrialRecord, result: Mapping[str, Any]) -> None:
        """A comparison ended the trial."""
        last = {"step": float(result["step"]), "loss": float(result["loss"])}
        reason = f"stopped after {result['step']} optimizer steps at loss {result['loss']:.4g}"
        reports = (*trial.reports, (int(result["step"]), float(result["loss"])))
        trial = replace(trial, reports=tuple(dict.fromkeys(reports)))
        self._end(trial, result, state="stopped", figures=last, reason=reason)

    def _end(self, trial: TrialRecord, result: Mapping[str, Any], **changes: Any) -> None:  # noqa: ANN401
        ended = replace(trial, seconds=float(result.get("time_total_s", 0.0)), **changes)
        self._journal.end(ended)
        self._tell(ended)

    def _new(self) -> TrialRecord | None:
        number = len(self._journal.trials)
        if number >= self._sweep.trials:
            return None
        judged: list[TrialRecord] = []

        def accept(values: dict[str, Any]) -> dict[str, Any] | None:
            verdict = self._judge(number, values)
            if verdict.trial is not None:
                judged.append(verdict.trial)
                return dict(verdict.trial.values)
            if verdict.reason:
                self._refused[json.dumps(values, sort_keys=True)] = verdict.reason
            return None

        if suggest(self._sweep, number, self._journal.trials, accept) is None:
            return None
        self._journal.begin(judged[-1])
        return judged[-1]

    def save(self, checkpoint_path: str) -> None:
        """The journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """The journal is the state."""
