import re
from html.parser import HTMLParser
from typing import Any

import pytest

from orchestrator.report.agreement import Agreement
from orchestrator.report.examples import Example
from orchestrator.report.graph import Node
from orchestrator.report.page import Provenance, render

SECTIONS = {
    "comparison",
    "accuracy",
    "arank",
    "skip",
    "examples",
    "training",
    "provenance",
}


class Page(HTMLParser):
    """Collects what a browser would load, and the ids of sections."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.sections: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.loaded += [named[key] or "" for key in ("src", "href", "srcset") if key in named]
        if tag == "section":
            self.sections.add(named["id"] or "")


@pytest.fixture
def page(documents: dict[str, Any], example: Example) -> str:
    return render(
        documents,
        agreement=Agreement(both=90, only_dense=4, only_mod=2, neither=4),
        examples=[example],
        provenance=Provenance(
            run_id="digits-1234",
            recipe={"name": "digits", "mod": {"capacity_ratio": 0.6}},
            digests={"align": "c0ffee"},
            versions={"gammaray": "0.1.0"},
            made_at="2026-01-01 00:00 UTC",
        ),
        graph=[Node(name="align", state="succeeded", inputs=(), seconds=2.0)],
    )


def test_every_section_is_there(page: str) -> None:
    assert Page(page).sections == SECTIONS


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    assert all(address.startswith("data:") for address in Page(page).loaded)
    assert not re.search(r"@import|url\(|<script|<iframe|srcset", page)


def test_texts_from_data_cannot_become_markup(page: str) -> None:
    assert "How many &lt;digits&gt; are there?" in page
    assert "<digits>" not in page
    assert "among the lowest &lt;2/3&gt;" in page


def test_the_chosen_layers_are_marked_with_their_reason(page: str) -> None:
    assert page.count('class="bar mod"') == 2
    assert page.count('class="bar dense"') == 1
    assert "layer 1: MoD: among the lowest" in page
    assert "the layer order is not stable" in page


def test_ranks_are_mapped_by_head_and_by_task(page: str) -> None:
    assert '<td>0</td><td style="--share:0.875">9</td><td style="--share:1.000">10</td>' in page
    assert "Mean rank by task" in page
    assert "Correlation of the layer orders of two tasks" in page
    assert "32&nbsp;→&nbsp;0.96" in page


def test_skipped_patches_are_greyed_where_they_are(page: str) -> None:
    assert '<path d="M0 0h1v1h-1zM1 1h1v1h-1z"/>' in page
    assert "layer 1 · 50 %" in page


def test_the_page_says_where_it_comes_from(page: str) -> None:
    for piece in ("digits-1234", "c0ffee", "feed" * 16, "models:/digits-mod/3", "capacity_ratio"):
        assert piece in page


def test_the_page_says_what_the_promotion_rule_said(documents: dict[str, Any]) -> None:
    decision = {"verdict": "promoted", "reason": "dense twin: accuracy -0.5 points"}
    page = render(
        {**documents, "decision": decision},
        agreement=Agreement(both=1, only_dense=0, only_mod=0, neither=0),
        examples=[],
        provenance=Provenance(run_id="r", recipe={}, digests={}, versions={}, made_at=""),
    )
    assert "<dt>as champion</dt><dd>promoted: dense twin: accuracy -0.5 points</dd>" in page


def test_the_steps_of_the_run_are_drawn(page: str) -> None:
    assert '<g class="step computed"><title>align: computed · 2.0 s</title>' in page


def test_a_run_without_images_times_and_ranks_still_has_a_page(documents: dict[str, Any]) -> None:
    few = {name: documents[name] for name in ("dense", "mod")}
    page = render(
        few,
        agreement=Agreement(both=1, only_dense=0, only_mod=0, neither=0),
        examples=[],
        provenance=Provenance(run_id="r", recipe={}, digests={}, versions={}, made_at=""),
    )
    assert Page(page).sections == SECTIONS
    assert "holds no images" in page
