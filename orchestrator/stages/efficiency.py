"""Stage ``efficiency``: what the converted model saves, counted and timed beside its dense twin."""

import json
from collections.abc import Mapping
from typing import Any

from torch import get_num_threads

from orchestrator.durable import StepContext
from workloads.data import Encoder, open_shard
from workloads.evaluation import prefill, prefill_cost, side_by_side, training_step
from workloads.model_folder import open_model_folder


def efficiency(context: StepContext) -> None:
    """Write ``efficiency.json`` with TFLOPs and KV bytes, and ``timing.json`` as a measurement.

    Both twins get the same prompts and the same training batch, in one process.
    """
    params: Mapping[str, Any] = context.params
    dense, processor = open_model_folder(context.inputs["dense"].path / "model")
    mod, _ = open_model_folder(context.inputs["mod"].path / "model")
    shard = open_shard(context.inputs["data"].path / "eval.arrow")
    encoder = Encoder(processor)
    samples = [shard[index] for index in range(min(params["batch_size"], len(shard)))]
    prompts = encoder.prompt_batch(samples)
    counted = {"dense": prefill_cost(dense, prompts), "mod": prefill_cost(mod, prompts)}
    document = {twin: cost.to_json() for twin, cost in counted.items()}
    (context.output / "efficiency.json").write_text(json.dumps(document, indent=1))
    repeats = params["repeats"]
    timing = {
        "prefill": side_by_side(dense, mod, prefill(prompts), repeats=repeats).to_json(),
        "training_step": side_by_side(
            dense, mod, training_step(encoder.training_batch(samples)), repeats=repeats
        ).to_json(),
        "batch_size": len(samples),
        "threads": get_num_threads(),
    }
    (context.measurement / "timing.json").write_text(json.dumps(timing, indent=1))
