"""Stage ``register``: the fine-tuned Mixture-of-Depths model becomes a version in the registry."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.durable import JSON, Artifact, StepContext
from orchestrator.recipe import Promotion
from orchestrator.registry import (
    CARD,
    Evidence,
    Promoter,
    Registration,
    Subject,
    describe,
    has_version,
    model_card,
    read_mod,
    register_model,
    telling_when_away,
)
from orchestrator.tracking.records import Records

_PREDICTIONS = "predictions.jsonl"
_DECISION = "decision.json"
_RECORD = "registration.json"


def register(context: StepContext) -> None:
    """Write ``measurement/registration.json`` for the version that is now the ``candidate``.

    With a promotion rule, ``measurement/decision.json`` says whether it became the ``champion`` and
    why. The model card lies there too, as ``README.md``.

    Raises:
        RegistryError: If the name belongs to something else.
        TrackingError: If the experiment is deleted.
        ConnectionError: If MLflow is away; the step is tried again.
    """
    model = context.inputs["model"]
    subject = _subject(context)
    rule = _rule(context)
    card = model_card(subject)
    tracking_uri = str(context.settings["tracking_uri"])
    with telling_when_away(tracking_uri):
        records = Records(tracking_uri, str(context.settings["experiment"]), context.store.url)
        registration = register_model(
            records,
            model.path / "model",
            name=subject.name,
            digest=model.digest,
            tags=_tags(context, subject.scores),
            description=describe(subject),
            card=card,
            evidence=subject.evidence,
            tracking_uri=tracking_uri,
            run_id=context.run_id,
            step=context.step,
        )
        decision = None
        if rule is not None:
            promoter = Promoter(records.client, tracking_uri, subject.name)
            decision = promoter.consider(registration.version, rule, may_move=rule.automatic)
    (context.measurement / CARD).write_text(card, encoding="utf-8")
    (context.measurement / _RECORD).write_text(json.dumps(registration.to_json(), indent=1))
    context.reporter.message(f"{registration.uri} is {registration.name}@candidate")
    if decision is not None:
        (context.measurement / _DECISION).write_text(json.dumps(decision.to_json(), indent=1))
        context.reporter.message(f"{decision.verdict}: {decision.reason}")


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


def _subject(context: StepContext) -> Subject:
    inputs = context.inputs
    evaluations = {"mod": inputs["evaluation"], "dense": inputs["dense_evaluation"]}
    efficiency = inputs["efficiency"]
    return Subject(
        name=str(context.params["name"]),
        run_id=context.run_id,
        scores={twin: _read(item.path / "metrics.json") for twin, item in evaluations.items()},
        evidence=Evidence.of_run(
            evaluations["mod"].path / _PREDICTIONS,
            evaluations["dense"].path / _PREDICTIONS,
            _read(efficiency.path / "efficiency.json"),
            _read(efficiency.measurement / "timing.json"),
        ),
        digests={name: item.digest for name, item in inputs.items()},
        mod=read_mod(inputs["model"].path / "model"),
    )


def _rule(context: StepContext) -> Promotion | None:
    given = context.params.get("promote")
    return None if given is None else Promotion.model_validate(given)


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document
