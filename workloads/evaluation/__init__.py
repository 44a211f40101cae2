"""Evaluation: answers and their scores, what a prefill costs, and how long it takes."""

from workloads.evaluation.answers import answer_questions
from workloads.evaluation.efficiency import (
    DecoderShape,
    decoder_flops,
    kept_tokens,
    kv_cache_bytes,
    layer_flops,
)
from workloads.evaluation.errors import EvaluationError
from workloads.evaluation.metrics import Accuracy, Prediction, Scores, matches, score
from workloads.evaluation.prefill import PrefillCost, prefill_cost
from workloads.evaluation.timing import Comparison, Run, prefill, side_by_side, training_step

__all__ = [
    "Accuracy",
    "Comparison",
    "DecoderShape",
    "EvaluationError",
    "Prediction",
    "PrefillCost",
    "Run",
    "Scores",
    "answer_questions",
    "decoder_flops",
    "kept_tokens",
    "kv_cache_bytes",
    "layer_flops",
    "matches",
    "prefill",
    "prefill_cost",
    "score",
    "side_by_side",
    "training_step",
]
