"""Sampling: how each row of a batch is decoded, by itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor

from workloads.generation.errors import SamplingError

_HOTTEST = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How one prompt is answered.

    Raises:
        SamplingError: If a value is out of its range.
    """

    max_new_tokens: int = 16
    """At least 1; the end of the answer counts."""
    temperature: float = 0.0
    """0, greedy, to 2."""
    top_p: float = 1.0
    """Probability mass of the likeliest tokens that are drawn from, in (0, 1]."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are not part of it."""
    seed: int | None = None
    """Of the draws; None draws differently each time."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise SamplingError("max_new_tokens", f"must be at least 1, got {self.max_new_tokens}")
        if not 0.0 <= self.temperature <= _HOTTEST:
            raise SamplingError(
                "temperature", f"must be in [0, {_HOTTEST:g}], got {self.temperature}"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise SamplingError("top_p", f"must be in (0, 1], got {self.top_p}")
        if not all(self.stop):
            raise SamplingError("stop", "must not be empty text")


class RowSampler(LogitsProcessor):
    """Draws the token of every row that is not greedy, and leaves no other for it to choose.

    So rows of one batch may be decoded differently, and what a row with a seed says does not
    depend on the others.
    """

    def __init__(self, samplings: Sequence[Sampling], device: torch.device) -> None:
        self._drawn = [
            (row, sampling, _source(sampling.seed, device))
            for row, sampling in enumerate(samplings)
            if sampling.temperature > 0.0
        ]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``scores`` are float32 ``(batch, vocabulary)``; they are changed in place."""
        for row, sampling, source in self._drawn:
            token = _draw(scores[row], sampling, source)
            scores[row] = -torch.inf
            scores[row, token] = 0.0
        return scores


def _source(seed: int | None, device: torch.device) -> torch.Generator:
    source = torch.Generator(device)
    if seed is None:
        source.seed()
    else:
        source.manual_seed(seed)
    return source


def _draw(logits: Tensor, sampling: Sampling, source: torch.Generator) -> Tensor:
    likely = (logits / sampling.temperature).softmax(-1).sort(descending=True)
    before = likely.values.cumsum(-1) - likely.values
    kept = likely.values.masked_fill(before >= sampling.top_p, 0.0)
    return likely.indices[torch.multinomial(kept, 1, generator=source)]
