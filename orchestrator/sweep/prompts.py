"""Step ``prompts`` of a sweep: what closed form needs to know of the model and its prompts."""

import json
from dataclasses import asdict

from transformers import AutoConfig, AutoProcessor

from orchestrator.durable import StepContext
from orchestrator.sweep.prediction import prompt_of
from workloads.data import Encoder, open_shard, prompt_batches
from workloads.evaluation import DecoderShape

_PROMPTS = 256
"""So many of the held-out questions: lengths vary little, and the mean of them is compared."""
_BATCH = 32
_VALUE_BYTES = 2
"""Of a cached number; shares of a cache do not depend on it."""


def prompts(context: StepContext) -> None:
    """Write ``prompts.json``: the decoder's shape, and token kinds by prompt."""
    model = context.inputs["model"].path
    config = AutoConfig.from_pretrained(model, local_files_only=True)
    processor = AutoProcessor.from_pretrained(  # type: ignore[no-untyped-call]
        model, local_files_only=True
    )
    shard = open_shard(context.inputs["data"].path / "eval.arrow")
    batches = prompt_batches(shard, Encoder(processor), batch_size=_BATCH, limit=_PROMPTS)
    counted = [prompt_of(row) for batch in batches for row in batch.inputs["token_kinds"].tolist()]
    shape = DecoderShape.from_config(config, value_bytes=_VALUE_BYTES)
    document = {"shape": asdict(shape), "prompts": counted}
    (context.output / "prompts.json").write_text(json.dumps(document, indent=1))
