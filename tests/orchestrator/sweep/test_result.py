import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from orchestrator.report import Summary, summarize
from orchestrator.sweep.errors import MetricMissingError, NoWinnerError
from orchestrator.sweep.page import render
from orchestrator.sweep.result import SweepResult, figures_of, sum_up
from orchestrator.sweep.table import print_result
from tests.orchestrator.report.conftest import documents
from tests.orchestrator.sweep.examples import RATIO, UNIFORM, finished, sweep_with, trial

__all__ = ["documents"]

TRIALS = [
    finished(0, 0.9, 0.929, 0.95),
    finished(1, 0.6, 0.925, 0.70),
    finished(2, 0.3, 0.850, 0.50),
    finished(3, 0.5, 0.800, 0.72),
    trial(4, {RATIO: 0.2}, state="failed", reason="step 'convert' failed: <no> layers"),
]


def result_of(**section: Any) -> SweepResult:
    return sum_up(
        sweep_with(UNIFORM, **section),
        sweep_id="digits-sweep-1",
        recipe="digits",
        trials=TRIALS,
        refused={"not tflops <= 0.8": 2},
        sensitivity=[
            {"path": RATIO, "figure": "accuracy", "share": 0.9, "correlation": 0.8},
        ],
    )


def test_front_knee_and_winner_of_two_objectives() -> None:
    result = result_of()
    assert result.front == (0, 1, 2)
    assert (result.knee, result.winner) == (1, 1)


def test_the_winner_of_one_objective_is_the_best_that_satisfies_the_constraints() -> None:
    assert result_of(objectives=["accuracy"]).winner == 0
    assert result_of(objectives=["accuracy"], constraints=["tflops <= 80 %"]).winner == 1
    assert result_of(objectives=["tflops"], constraints=["accuracy_drop <= 1.5"]).winner == 1


def test_without_a_trial_that_satisfies_the_constraints_there_is_no_winner() -> None:
    result = result_of(constraints=["tflops <= 0.4"])
    assert result.winner is None
    with pytest.raises(NoWinnerError, match=r"none of 5 trials satisfies tflops <= 0\.4") as caught:
        result.the_winner()
    assert caught.value.exit_code == 1


def test_the_hypervolume_never_falls() -> None:
    volumes = result_of().hypervolume
    assert len(volumes) == len(TRIALS)
    assert list(volumes) == sorted(volumes)
    assert volumes[0] == pytest.approx(0.929 * 0.05 * 0.1)


def test_it_is_the_same_after_a_way_through_json() -> None:
    result = result_of(constraints=["tflops <= 0.8"])
    text = json.dumps(result.to_json())
    again = SweepResult.from_json(json.loads(text))
    assert json.dumps(again.to_json()) == text
    assert again.is_feasible(again.trial(1))
    assert not again.is_feasible(again.trial(0))


def test_figures_are_shares_of_the_dense_twin(documents: dict[str, Any]) -> None:
    found = figures_of("run", summarize(documents))
    assert found["accuracy_drop"] == pytest.approx(1.5)
    assert (found["tflops"], found["kv"], found["prefill"]) == pytest.approx((0.5, 0.5, 0.8))


@pytest.mark.parametrize(("missing", "name"), [("efficiency", "tflops"), ("timing", "prefill")])
def test_a_figure_that_is_missing_is_named(
    documents: dict[str, Any], missing: str, name: str
) -> None:
    del documents[missing]
    summary: Summary = summarize(documents)
    with pytest.raises(MetricMissingError, match=f"run digits-1 has no figure '{name}'"):
        figures_of("digits-1", summary)


def test_the_table_shows_every_trial_and_says_what_follows() -> None:
    text = io.StringIO()
    print_result(result_of(), Console(file=text, width=200))
    shown = text.getvalue()
    for expected in ("92.5%", "x 0.70", "failed", "hypervolume:", "winner: trial 1", "fANOVA"):
        assert expected in shown


class Page(HTMLParser):
    """What a page loads, and the facts of its points."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.facts: dict[str, dict[str, str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.loaded += [given[name] or "" for name in ("src", "href") if name in given]
        if "data-facts" in given:
            self.facts[given["data-name"] or ""] = json.loads(given["data-facts"] or "")


def test_the_page_holds_all_it_shows() -> None:
    text = render(result_of(), {"name": "digits"})
    page = Page(text)
    assert page.loaded == ["data:,"]
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert set(page.facts) == {"trial 0", "trial 1", "trial 2", "trial 3", "dense twin"}
    assert page.facts["trial 1"][RATIO] == "0.6"
    assert page.facts["trial 1"]["accuracy"] == "92.5% (-0.5 points)"
    assert "&lt;no&gt; layers" in text
