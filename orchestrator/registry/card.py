"""The model card: what a registered model is, how good, of what it was made, how to load it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from orchestrator.registry.decision import Comparison, Decision, shown_accuracy
from orchestrator.registry.evidence import Evidence

CARD = "README.md"

_DESCRIPTION_LENGTH = 5000
"""Characters of a version's description that MLflow's databases take."""
_PROMOTION = "\n\n## Promotion\n\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What a card is about."""

    name: str
    run_id: str
    scores: Mapping[str, Mapping[str, Any]]
    """``metrics.json`` under ``mod`` and ``dense``."""
    evidence: Evidence
    digests: Mapping[str, str]
    """Of the artifacts that it was made of and measured by."""
    mod: Mapping[str, Any]
    """What ``config.json`` says of the conversion; empty for a dense model."""


def read_mod(model: Path) -> dict[str, Any]:
    """What the ``config.json`` of a model folder says of its conversion."""
    found: dict[str, Any] = json.loads((model / "config.json").read_text()).get("mod", {})
    return found


def model_card(subject: Subject) -> str:
    """``README.md`` of the folder, with the front matter that the Hugging Face Hub reads."""
    front = yaml.safe_dump(_front_matter(subject), sort_keys=False, allow_unicode=True)
    sections = (
        f"# {subject.name}\n\n{describe(subject)}",
        f"## Use\n\n{_USE}",
        f"## Figures\n\n{_figures(subject)}",
        f"## Lineage\n\n{_lineage(subject)}",
        f"## Limits\n\n{_limits(subject)}",
    )
    return f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def describe(subject: Subject) -> str:
    """The card in a few sentences, for the description of a version."""
    mod, dense = (subject.scores[twin] for twin in ("mod", "dense"))
    measured = mod.get("skip", {}).get("measured", {})
    skipped = (
        f"{measured['skip_all']:.1%} of all tokens skipped in MoD layers. " if measured else ""
    )
    return (
        f"Mixture-of-Depths model of gammaray run {subject.run_id}. "
        f"Accuracy {mod['accuracy']:.1%} on {mod['questions']} held-out questions, its dense twin "
        f"{dense['accuracy']:.1%}. {skipped}Input: image and question; output: answer."
    )


def with_decision(description: str, decision: Decision) -> str:
    """A version's description that ends with its decision; an earlier one is replaced."""
    base = description.partition(_PROMOTION)[0]
    lines = [f"{str(decision.verdict).capitalize()} at {decision.decided_at}: {decision.reason}."]
    lines += [_comparison(item) for item in decision.comparisons]
    lines += [f"Digest of the decision: {decision.digest}"]
    return f"{base}{_PROMOTION}{chr(10).join(lines)}"[:_DESCRIPTION_LENGTH]


_USE = """Plain `from_pretrained` refuses this folder; where gammaray is installed:

```python
from transformers import AutoProcessor
from workloads.mod import load_pretrained

folder = "."  # where this folder lies; `hf download` fetches it
model = load_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder)
```

`load_pretrained(folder, as_dense=True)` gives the dense model with the same weights."""


def _front_matter(subject: Subject) -> dict[str, Any]:
    accuracy = {
        "type": "accuracy",
        "name": "Accuracy",
        "value": round(float(subject.scores["mod"]["accuracy"]), 4),
    }
    result = {
        "task": {"type": "visual-question-answering"},
        "dataset": {"type": "held-out", "name": "Held-out questions of the run"},
        "metrics": [accuracy],
    }
    return {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["mixture-of-depths", "gammaray"],
        "model-index": [{"name": subject.name, "results": [result]}],
    }


def _figures(subject: Subject) -> str:
    mod, dense = (subject.scores[twin] for twin in ("mod", "dense"))
    tflops = subject.evidence.tflops
    rows = [
        ("", "dense twin", "this model"),
        ("---", "---", "---"),
        (
            f"accuracy, {mod['questions']} held-out questions",
            f"{dense['accuracy']:.1%}",
            f"{mod['accuracy']:.1%}",
        ),
        (
            "decoder TFLOPs of a prefill, counted",
            f"{tflops['dense']:.4g}",
            f"{tflops['mod']:.4g}",
        ),
    ]
    if subject.evidence.prefill_ratio is not None:
        rows.append(("prefill time, side by side", "1", f"× {subject.evidence.prefill_ratio:.2f}"))
    skip = mod.get("skip", {})
    for key, tokens in (("skip_routable", "routable"), ("skip_all", "all")):
        if key in skip.get("measured", {}) and key in skip.get("nominal", {}):
            shares = f"{skip['nominal'][key]:.1%} / {skip['measured'][key]:.1%}"
            what = f"skipped of {tokens} tokens in MoD layers, nominal / measured"
            rows.append((what, "", shares))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _lineage(subject: Subject) -> str:
    lines = [f"- gammaray {version('gammaray')}, run `{subject.run_id}`"]
    lines += [f"- {name}: `{digest}`" for name, digest in subject.digests.items()]
    if digest := subject.mod.get("arank_digest"):
        lines.append(f"- ARank profile: `{digest}`")
    return "\n".join(lines)


def _limits(subject: Subject) -> str:
    return "\n".join(f"- {text}" for text in _known_limits(subject))


def _known_limits(subject: Subject) -> Iterator[str]:
    if layers := subject.mod.get("layers"):
        yield (
            f"Converted layers: {', '.join(map(str, layers))}. In them, tokens of the kinds "
            f"{', '.join(subject.mod.get('routable', ()))} may be skipped."
        )
    yield (
        "The accuracy is by exact match on the held-out part of the run's own data; nothing is "
        "known of other data."
    )
    yield "The time is that of the machine of the run; FLOPs carry over to others."
    yield "Licence and intended use are those of the base model and the data."


def _comparison(item: Comparison) -> str:
    outcome = "holds" if item.holds else "does not hold"
    if item.accuracy is None or item.flops_saved is None:
        return f"- {item.against}: {'; '.join(item.reasons)}"
    ratio = "" if item.prefill_ratio is None else f", prefill time × {item.prefill_ratio:.2f}"
    return (
        f"- {item.against}: {outcome}; {shown_accuracy(item.accuracy)} over "
        f"{item.accuracy.questions} questions, {item.flops_saved:.1%} fewer FLOPs{ratio}"
    )
