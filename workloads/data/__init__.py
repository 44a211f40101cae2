import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workloads.data.batches import (
        PromptBatch,
        Replacement,
        TrainingBatches,
        analysis_batches,
        analysis_indices,
        prompt_batches,
    )
    from workloads.data.build import Build, Summary, read_llava
    from workloads.data.collate import Batch, Encoded
    from workloads.data.digits import build_digits_vqa
    from workloads.data.encode import Encoder
    from workloads.data.held_out import Subset, hold_out
    from workloads.data.order import SampleOrder
    from workloads.data.questions import QUESTION_KINDS
    from workloads.data.records import Conversation, Turn, write_llava
    from workloads.data.shards import Sample, Shard, open_shard, write_batches, write_shard
    from workloads.data.sources import Part

__all__ = [
    "QUESTION_KINDS",
    "Batch",
    "Build",
    "Conversation",
    "Encoded",
    "Encoder",
    "Part",
    "PromptBatch",
    "Replacement",
    "Sample",
    "SampleOrder",
    "Shard",
    "Subset",
    "Summary",
    "TrainingBatches",
    "Turn",
    "analysis_batches",
    "analysis_indices",
    "build_digits_vqa",
    "hold_out",
    "open_shard",
    "prompt_batches",
    "read_llava",
    "write_batches",
    "write_llava",
    "write_shard",
]

_MODULES = {
    "batches": (
        "PromptBatch",
        "Replacement",
        "TrainingBatches",
        "analysis_batches",
        "analysis_indices",
        "prompt_batches",
    ),
    "build": ("Build", "Summary", "read_llava"),
    "collate": ("Batch", "Encoded"),
    "digits": ("build_digits_vqa",),
    "encode": ("Encoder",),
    "held_out": ("Subset", "hold_out"),
    "order": ("SampleOrder",),
    "questions": ("QUESTION_KINDS",),
    "records": ("Conversation", "Turn", "write_llava"),
    "shards": ("Sample", "Shard", "open_shard", "write_batches", "write_shard"),
    "sources": ("Part",),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute may be anything
    # A process that builds a part of a shard must not wait for torch.
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
