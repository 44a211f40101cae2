"""Greedy answers of a model, dense or converted, to batches of questions."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from workloads.data import PromptBatch
from workloads.evaluation.metrics import Prediction, matches
from workloads.generation import greedy_settings, model_inputs
from workloads.mod import RoutingRecord
from workloads.reporting import Reporter, SilentReporter


@torch.no_grad()
def answer_questions(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    batches: Iterable[PromptBatch],
    *,
    max_new_tokens: int,
    reporter: Reporter | None = None,
    total: int = 0,
    tag: str = "kind",
    routing_record: RoutingRecord | None = None,
) -> list[Prediction]:
    """Let a model answer, greedily and a batch at a time.

    Args:
        model: Dense or converted; it is put into evaluation mode.
        processor: Its processor, for the tokenizer.
        batches: Left-padded prompts with the expected answers.
        max_new_tokens: Longest answer.
        reporter: Told the number of questions answered and the accuracy so far.
        total: Number of questions to come, if it is known.
        tag: Which of a sample's tags predictions are grouped by; samples without it get ``all``.
        routing_record: Filled with what a converted model skips while it answers.

    Returns:
        One prediction per question, in the order of the batches.
    """
    reporter = reporter or SilentReporter()
    model.eval()  # type: ignore[no-untyped-call]
    settings = greedy_settings(model, processor, max_new_tokens)
    options = {} if routing_record is None else {"routing_record": routing_record}
    predictions: list[Prediction] = []
    for batch in batches:
        inputs = model_inputs(model, batch.inputs)
        sequences = model.generate(  # type: ignore[operator]
            **inputs, **options, generation_config=settings
        )
        new_tokens = sequences[:, inputs["input_ids"].shape[1] :]
        predictions.extend(_predictions(batch, _texts(processor, new_tokens), tag))
        correct = sum(prediction.is_correct for prediction in predictions)
        note = f"{correct / len(predictions):.1%} correct"
        reporter.progress(len(predictions), max(total, len(predictions)), "questions", note)
    return predictions


def _texts(processor: ProcessorMixin, tokens: Tensor) -> list[str]:
    texts: list[str] = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [text.strip() for text in texts]


def _predictions(batch: PromptBatch, answers: list[str], tag: str) -> Iterator[Prediction]:
    rows = zip(batch.ids, batch.tags, batch.answers, answers, strict=True)
    for sample_id, tags, expected, answer in rows:
        yield Prediction(
            sample_id, tags.get(tag, "all"), expected, answer, matches(expected, answer)
        )
