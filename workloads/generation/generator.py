"""Generator: answers a batch of prompts, dense or converted, without anything of a server."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    ProcessorMixin,
    StoppingCriteriaList,
)

from workloads.data import Batch, Encoder, Sample
from workloads.generation.completion import Completion, Listener, Unheard
from workloads.generation.inputs import model_inputs
from workloads.generation.rows import Row, RowsCriteria
from workloads.generation.sampling import RowSampler, Sampling
from workloads.generation.settings import greedy_settings
from workloads.generation.text import AnswerText
from workloads.mod import RoutingRecord, is_converted


class Generator:
    """Answers batches of prompts; rows may differ in their limits, stop strings and sampling.

    A row says what it would say alone. Converted models decode with their calibrated threshold.

    Args:
        model: Dense or converted; it is put into evaluation mode.
        processor: Its processor.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        model.eval()  # type: ignore[no-untyped-call]
        self._model, self._processor = model, processor
        self.context_tokens = _context_tokens(model, processor)
        self._encoder = Encoder(processor, max_tokens=self.context_tokens - 1)

    def encode(self, samples: Sequence[Sample]) -> Batch:
        """Left-padded model inputs of prompts, each up to where the last answer begins.

        Raises:
            DataError: If one is too long for the model, or its template cannot show it.
        """
        return self._encoder.prompt_batch(samples)

    @torch.no_grad()
    def generate(
        self,
        batch: Batch,
        samplings: Sequence[Sampling],
        listeners: Sequence[Listener] | None = None,
    ) -> list[Completion]:
        """Answer, and tell each row's listener of its text as it grows.

        Args:
            batch: What :meth:`encode` gave.
            samplings: One per row. A limit that the model's context cannot hold is cut to what it
                holds, and the answer ends for ``length``.
            listeners: One per row, or none.

        Returns:
            What became of each row, in order.
        """
        inputs = model_inputs(self._model, batch)
        listeners = listeners or [Unheard() for _ in samplings]
        lengths = batch["attention_mask"].sum(1).tolist()
        limits = [
            min(sampling.max_new_tokens, self.context_tokens - length)
            for sampling, length in zip(samplings, lengths, strict=True)
        ]
        settings = self._settings(max(limits))
        rows = [
            Row(
                AnswerText(self._processor.tokenizer.backend_tokenizer, sampling.stop),
                listener,
                ends=_ids(settings.eos_token_id),
                limit=limit,
                prompt_tokens=length,
            )
            for sampling, listener, limit, length in zip(
                samplings, listeners, limits, lengths, strict=True
            )
        ]
        record = RoutingRecord(keep_masks=True) if is_converted(self._model) else None
        criteria = RowsCriteria(rows, lambda: _skips(record, batch))
        options: dict[str, Any] = {} if record is None else {"routing_record": record}
        self._model.generate(  # type: ignore[operator]
            **inputs,
            **options,
            generation_config=settings,
            stopping_criteria=StoppingCriteriaList([criteria]),
            logits_processor=LogitsProcessorList([RowSampler(samplings, self._model.device)]),
        )
        return [row.completion for row in rows if row.completion is not None]

    def _settings(self, max_new_tokens: int) -> GenerationConfig:
        settings = greedy_settings(self._model, self._processor, max_new_tokens)
        # An image in an answer would have nothing to show.
        settings.suppress_tokens = list(self._processor.image_token_ids)
        return settings


def _skips(record: RoutingRecord | None, batch: Batch) -> Sequence[float | None]:
    real: Tensor = batch["attention_mask"].bool()
    return [None] * len(real) if record is None else record.skip_per_row(real)


def _ids(value: int | Sequence[int] | None) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset([value] if isinstance(value, int) else value)


def _context_tokens(model: PreTrainedModel, processor: ProcessorMixin) -> int:
    """Most tokens of prompt and answer: what the positions and the tokenizer allow."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    own = int(processor.tokenizer.model_max_length)
    return own if positions is None else min(own, int(positions))
