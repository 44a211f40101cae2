"""The report: one HTML page that holds everything it shows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.report.agreement import Agreement
from orchestrator.report.charts import HALF, Bar, Series, bar_chart, dumbbells, line_chart, losses
from orchestrator.report.documents import Document
from orchestrator.report.graph import Node
from orchestrator.report.graph_chart import STYLE, graph_svg
from orchestrator.report.heat_maps import rank_maps
from orchestrator.report.summary import Summary, shown, shown_change, signed, summarize

if TYPE_CHECKING:
    from orchestrator.report.examples import Example

TEMPLATES = Path(__file__).with_name("templates")
"""Folder of the pages, their styles and scripts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a report's figures come from."""

    run_id: str
    recipe: Mapping[str, Any]
    digests: Mapping[str, str]
    """Step to the digest of its result."""
    versions: Mapping[str, str]
    """Library to its version."""
    made_at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One decoder layer in the ARank table."""

    index: int
    rank: float | None
    error: float | None
    is_converted: bool
    reason: str


def render(
    documents: Mapping[str, Document],
    *,
    agreement: Agreement,
    examples: "Sequence[Example]",
    provenance: Provenance,
    graph: Sequence[Node] = (),
) -> str:
    """Fill the page.

    Args:
        documents: By the names of ``documents.SOURCES``.
        agreement: The twins on the same questions.
        examples: Images with the patches that layers skipped.
        provenance: Where all of it comes from.
        graph: The steps of the run; without any, it is left out.
    """
    summary = summarize(documents)
    layers = tuple(_layers(documents))
    profile = documents.get("arank", {}).get("profile", {})
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "change": shown_change, "signed": signed}
    page = environment.get_template("page.html.j2")
    return page.render(
        summary=summary,
        agreement=agreement,
        style=Markup((TEMPLATES / "page.css").read_text() + STYLE.read_text()),
        graph=Markup(graph_svg(graph)) if graph else "",
        layers=layers,
        rank_chart=Markup(_rank_chart(layers)),
        kind_chart=Markup(dumbbells([(k.kind, k.dense, k.mod) for k in summary.kinds], width=HALF)),
        loss_chart=Markup(_loss_chart(documents)),
        align_chart=Markup(_align_chart(documents)),
        warnings=_selection(documents).get("warnings", []),
        policy=_selection(documents).get("policy", {}),
        arank=profile,
        rank_maps=rank_maps(profile),
        kinds=_kinds(summary),
        examples=examples,
        provenance=provenance,
        recipe=json.dumps(provenance.recipe, indent=2, ensure_ascii=False),
    )


def _selection(documents: Mapping[str, Document]) -> Document:
    selection: Document = documents.get("conversion", {}).get("selection") or {}
    return selection


def _layers(documents: Mapping[str, Document]) -> Iterator[Layer]:
    profile = documents.get("arank", {}).get("profile", {})
    selection = _selection(documents)
    reasons = selection.get("reasons", [])
    ranks, errors = profile.get("mean") or [], profile.get("stderr") or []
    for index in range(max(len(ranks), len(reasons))):
        yield Layer(
            index=index,
            rank=ranks[index] if index < len(ranks) else None,
            error=errors[index] if index < len(errors) else None,
            is_converted=index in selection.get("layers", []),
            reason=reasons[index] if index < len(reasons) else "",
        )


def _rank_chart(layers: Sequence[Layer]) -> str:
    bars = [
        Bar(
            name=str(layer.index),
            value=layer.rank,
            error=layer.error,
            css="mod" if layer.is_converted else "dense",
            note=f"layer {layer.index}: {layer.reason}",
        )
        for layer in layers
        if layer.rank is not None
    ]
    return bar_chart(bars, y_label="ARank", x_label="decoder layer")


def _loss_chart(documents: Mapping[str, Document]) -> str:
    series = [
        Series(name=name, css=css, points=losses(documents.get(source, {}), "lm_loss"))
        for name, css, source in (
            ("dense", "dense", "finetune_dense"),
            ("MoD", "mod", "finetune_mod"),
        )
    ]
    return line_chart(series, y_label="language-model loss", x_label="optimizer step", width=HALF)


def _align_chart(documents: Mapping[str, Document]) -> str:
    points = losses(documents.get("align", {}), "loss")
    series = [Series(name="alignment", css="align", points=points)]
    return line_chart(series, y_label="loss", x_label="optimizer step", width=HALF)


def _kinds(summary: Summary) -> list[str]:
    """Columns of the skip table: totals first, then token kinds as they come."""
    return list(
        dict.fromkeys(kind for shares in summary.skip_per_layer.values() for kind in shares)
    )
