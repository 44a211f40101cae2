from workloads.data.batches import (
    PromptBatch,
    TrainingBatches,
    analysis_batches,
    analysis_indices,
    prompt_batches,
)
from workloads.data.collate import Batch, Encoded, collate
from workloads.data.digits import build_digits_vqa
from workloads.data.encode import Encoder
from workloads.data.order import batch_indices
from workloads.data.questions import QUESTION_KINDS
from workloads.data.records import Conversation, Turn, read_llava, write_llava
from workloads.data.shards import Sample, Shard, open_shard, write_shard

__all__ = [
    "QUESTION_KINDS",
    "Batch",
    "Conversation",
    "Encoded",
    "Encoder",
    "PromptBatch",
    "Sample",
    "Shard",
    "TrainingBatches",
    "Turn",
    "analysis_batches",
    "analysis_indices",
    "batch_indices",
    "build_digits_vqa",
    "collate",
    "open_shard",
    "prompt_batches",
    "read_llava",
    "write_llava",
    "write_shard",
]
