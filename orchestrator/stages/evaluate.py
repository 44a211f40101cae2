"""Stage ``evaluate``: greedy answers to the held-out questions, and what was skipped for them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch.nn.functional as F
from torch import Tensor, cat

from orchestrator.durable import StepContext
from workloads.data import Encoder, PromptBatch, open_shard, prompt_batches
from workloads.evaluation import Prediction, answer_questions, score
from workloads.kinds import TokenKind
from workloads.mod import MoDConfig, RoutingRecord, is_converted, mod_config, nominal_skip
from workloads.model_folder import open_model_folder


def evaluate(context: StepContext) -> None:
    """Write ``predictions.jsonl`` and ``metrics.json`` for a dense or a converted model."""
    params: Mapping[str, Any] = context.params
    model, processor = open_model_folder(context.inputs["model"].path / "model")
    shard = open_shard(context.inputs["data"].path / "eval.arrow")
    total = min(params["questions"] or len(shard), len(shard))
    encoder = Encoder(processor)
    batches = prompt_batches(shard, encoder, batch_size=params["batch_size"], limit=total)
    kinds: list[Tensor] = []
    record = RoutingRecord() if is_converted(model) else None
    predictions = answer_questions(
        model,
        processor,
        _noting_kinds(batches, kinds),
        max_new_tokens=params["max_new_tokens"],
        reporter=context.reporter,
        total=total,
        routing_record=record,
    )
    metrics: dict[str, Any] = score(predictions).to_json()
    if record is not None:
        metrics["skip"] = _skip(record, mod_config(model), kinds)
    _write(context, predictions, metrics)


def _noting_kinds(batches: Iterable[PromptBatch], kinds: list[Tensor]) -> Iterator[PromptBatch]:
    for batch in batches:
        kinds.append(batch.inputs["token_kinds"])
        yield batch


def _skip(record: RoutingRecord, config: MoDConfig, kinds: Sequence[Tensor]) -> dict[str, Any]:
    """Nominal beside measured, over the same prompts."""
    width = max(batch.shape[1] for batch in kinds)
    padded = [F.pad(batch, (width - batch.shape[1], 0), value=TokenKind.PAD) for batch in kinds]
    skip_routable, skip_all = nominal_skip(config, cat(padded))
    return {
        "nominal": {"skip_routable": skip_routable, "skip_all": skip_all},
        "measured": {"skip_routable": record.skip_routable(), "skip_all": record.skip_all()},
        "per_layer": record.per_layer(),
    }


def _write(
    context: StepContext, predictions: Sequence[Prediction], metrics: dict[str, Any]
) -> None:
    lines = [json.dumps(asdict(prediction)) for prediction in predictions]
    (context.output / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    (context.output / "metrics.json").write_text(json.dumps(metrics, indent=1))
