from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher

from orchestrator.durable import open_store
from orchestrator.sweep.journal import Journal, TrialRecord
from orchestrator.sweep.judge import Verdict
from orchestrator.sweep.searcher import JournalSearcher
from tests.orchestrator.sweep.examples import RATIO, figures, sweep_with

GRID = {RATIO: {"choice": [0.4, 0.5, 0.6]}}


class Search:
    """A searcher over a journal, asked and told as Ray Tune does."""

    def __init__(self, folder: Path, *, refuses: float = 0.0, **section: Any) -> None:
        self.journal = Journal(open_store(str(folder)), "sweep")
        self.told: list[TrialRecord] = []
        self._refuses = refuses
        self.searcher = JournalSearcher(
            sweep_with(GRID, algorithm="grid", **section),
            self.journal,
            judge=self._judge,
            order=lambda trial: SimpleNamespace(number=trial.number),  # type: ignore[arg-type]
            tell=self.told.append,
        )

    def ask(self, trial_id: str) -> Any:
        found = self.searcher.suggest(trial_id)
        return found if isinstance(found, str) else found["order"].number

    def end(self, trial_id: str, state: str = "finished", reason: str = "") -> None:
        known = figures(0.9, 0.5) if state == "finished" else {}
        flat = {f"figures/{name}": value for name, value in known.items()}
        result = {"state": state, "reason": reason, "time_total_s": 2.0, **flat}
        self.searcher.on_trial_complete(trial_id, result)

    def _judge(self, number: int, values: dict[str, Any]) -> Verdict:
        if values[RATIO] == self._refuses:
            return Verdict(trial=None, reason="too dear")
        if any(trial.values == values for trial in self.journal.trials):
            return Verdict(trial=None)
        return Verdict(trial=TrialRecord(number=number, run_id=f"run-{number}", values=values))


def test_trials_come_in_order_until_there_are_enough(tmp_path: Path) -> None:
    search = Search(tmp_path, trials=2)
    assert [search.ask("a"), search.ask("b"), search.ask("c")] == [0, 1, Searcher.FINISHED]


def test_finished_trials_are_not_run_again_and_begun_ones_are(tmp_path: Path) -> None:
    first = Search(tmp_path)
    first.ask("a")
    first.ask("b")
    first.end("b")
    again = Search(tmp_path)
    assert [again.ask("a"), again.ask("b"), again.ask("c")] == [0, 2, Searcher.FINISHED]
    assert again.journal.trials[1].figures["accuracy"] == 0.9
    assert again.journal.trials[1].seconds == 2.0


def test_a_trial_that_was_lost_stays_begun(tmp_path: Path) -> None:
    search = Search(tmp_path)
    search.ask("a")
    search.searcher.on_trial_complete("a", error=True)
    assert search.journal.trials[0].state == "running"
    assert not search.told


def test_a_comparison_that_ends_a_trial_is_its_end(tmp_path: Path) -> None:
    search = Search(tmp_path)
    search.ask("a")
    search.searcher.on_trial_result("a", {"step": 50, "loss": 2.0})
    search.searcher.on_trial_complete("a", {"step": 100, "loss": 1.5, "time_total_s": 9.0})
    (trial,) = search.told
    assert (trial.state, trial.reports) == ("stopped", ((50, 2.0), (100, 1.5)))
    assert trial.figures == {"step": 100.0, "loss": 1.5}
    assert Search(tmp_path).journal.trials == [trial]


def test_a_trial_that_failed_says_why(tmp_path: Path) -> None:
    search = Search(tmp_path)
    search.ask("a")
    search.end("a", state="failed", reason="no layer is converted")
    assert search.told[0].reason == "no layer is converted"


@pytest.mark.parametrize("refuses", [0.4, 0.5])
def test_values_that_are_refused_are_counted_and_not_tried(tmp_path: Path, refuses: float) -> None:
    search = Search(tmp_path, refuses=refuses)
    assert [search.ask("a"), search.ask("b"), search.ask("c")] == [0, 1, Searcher.FINISHED]
    assert refuses not in [trial.values[RATIO] for trial in search.journal.trials]
    assert search.searcher.refused == {"too dear": 1}
