"""Stage ``register``: the fine-tuned Mixture-of-Depths model becomes a version in the registry."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.durable import JSON, Artifact, StepContext
from orchestrator.registry import Registration, has_version, register_model

_RECORD = "registration.json"


def register(context: StepContext) -> None:
    """Write ``measurement/registration.json`` for the version that is now the ``candidate``.

    Raises:
        TrackingError: If the experiment is deleted.
        ConnectionError: If MLflow is away; the step is tried again.
    """
    model = context.inputs["model"]
    scores = {
        twin: _read(context.inputs[name].path / "metrics.json")
        for twin, name in (("mod", "evaluation"), ("dense", "dense_evaluation"))
    }
    registration = register_model(
        model.path / "model",
        name=str(context.params["name"]),
        digest=model.digest,
        tags=_tags(context, scores),
        description=_description(context.run_id, scores),
        tracking_uri=str(context.settings["tracking_uri"]),
        experiment=str(context.settings["experiment"]),
        run_id=context.run_id,
        step=context.step,
    )
    (context.measurement / _RECORD).write_text(json.dumps(registration.to_json(), indent=1))
    context.reporter.message(f"{registration.uri} is {registration.name}@candidate")


def is_registered(artifact: Artifact, settings: Mapping[str, JSON]) -> bool:
    """Whether the version that an earlier `register` made is still in the registry."""
    record = artifact.measurement / _RECORD
    return record.is_file() and has_version(
        Registration(**_read(record)), str(settings["tracking_uri"])
    )


def _tags(context: StepContext, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    tags = {
        "gammaray.run_id": context.run_id,
        "gammaray.key": context.key,
        "gammaray.accuracy": f"{scores['mod']['accuracy']:.4f}",
        "gammaray.dense_accuracy": f"{scores['dense']['accuracy']:.4f}",
        "gammaray.questions": str(scores["mod"]["questions"]),
    }
    measured = scores["mod"].get("skip", {}).get("measured", {})
    skips = {f"gammaray.{name}": f"{share:.4f}" for name, share in measured.items()}
    inputs = {f"gammaray.input.{name}": item.digest for name, item in context.inputs.items()}
    return tags | skips | inputs


def _description(run_id: str, scores: Mapping[str, Mapping[str, Any]]) -> str:
    mod, dense = scores["mod"], scores["dense"]
    measured = mod.get("skip", {}).get("measured", {})
    skipped = (
        f"{measured['skip_all']:.1%} of all tokens skipped in MoD layers. " if measured else ""
    )
    return (
        f"Mixture-of-Depths model of gammaray run {run_id}. Accuracy {mod['accuracy']:.1%} on "
        f"{mod['questions']} held-out questions, its dense twin {dense['accuracy']:.1%}. {skipped}"
        "Input: image and question; output: answer."
    )


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document
