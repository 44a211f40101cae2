"""What a finished step's files say to MLflow: points, tags and the texts worth attaching."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_FIGURES = ("metrics.json", "efficiency.json", "timing.json")
READ = (
    *_FIGURES,
    "history.json",
    "training.json",
    "arank.json",
    "conversion.json",
    "registration.json",
    "decision.json",
    "report.html",
    "sweep.json",
    "sweep.html",
)
"""Files of an artifact that a tracker wants; all are texts, and small beside a model."""

Values = dict[str, float]
Documents = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Figures:
    """What MLflow shows of one step."""

    series: tuple[tuple[int, Values], ...]
    """(step, values): losses over optimizer steps, ranks over layers, single figures at 0."""

    tags: Mapping[str, str]


def read_figures(texts: Mapping[str, str]) -> Figures:
    """Read what the files ``texts``, by their names, have to say; missing ones say nothing."""
    documents = {name: json.loads(text) for name, text in texts.items() if name.endswith(".json")}
    return Figures(
        series=(*_history(documents), *_ranks(documents), *_single(documents)),
        tags=dict(_tags(documents)),
    )


def _history(documents: Documents) -> Iterator[tuple[int, Values]]:
    history = documents.get("history.json", {})
    signals = documents.get("training.json", {}).get("signals", [])
    for point in (*history.get("points", []), *signals):
        yield int(point["step"]), dict(_numbers({k: v for k, v in point.items() if k != "step"}))
    for event in history.get("events", []):
        yield int(event["step"]), {f"guard/{event['guard']}": float(event["value"])}
    for step, samples in sorted(
        Counter(each["step"] for each in history.get("replaced", [])).items()
    ):
        yield int(step), {"replaced_samples": float(samples)}


def _ranks(documents: Documents) -> Iterator[tuple[int, Values]]:
    for layer, mean in enumerate(
        documents.get("arank.json", {}).get("profile", {}).get("mean", ())
    ):
        yield layer, {"arank_by_layer": float(mean)}


def _single(documents: Documents) -> Iterator[tuple[int, Values]]:
    for name in _FIGURES:
        if values := dict(_numbers(documents.get(name, {}))):
            yield 0, values


def _tags(documents: Documents) -> Iterator[tuple[str, str]]:
    if layers := documents.get("conversion.json", {}).get("selection", {}).get("layers"):
        yield "gammaray.mod_layers", json.dumps(layers)
    if digest := documents.get("arank.json", {}).get("profile", {}).get("digest"):
        yield "gammaray.arank_digest", str(digest)
    if uri := documents.get("registration.json", {}).get("uri"):
        yield "gammaray.registered", str(uri)
    if decision := documents.get("decision.json"):
        yield "gammaray.decision", f"{decision['verdict']}: {decision['reason']}"


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)
