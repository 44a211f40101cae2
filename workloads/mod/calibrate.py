"""Thresholds that skip at inference what top-k skipped in training."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from workloads.errors import ConversionError
from workloads.kinds import TokenKind
from workloads.mod.config import MoDConfig
from workloads.mod.convert import mod_config, set_config
from workloads.mod.modes import evaluating
from workloads.mod.record import Observed, RoutingRecord
from workloads.mod.router import selection_score


def calibrate_threshold(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> float:
    """Set the prompt thresholds of a converted model so that measured skip matches nominal.

    The model runs with the training rule (top-k) and each layer's scores of routable tokens are
    collected; its threshold is the score that parts the nominal share from the rest. A layer
    has its own because a shared router spreads its scores differently from layer to layer.

    Args:
        model: Converted with ``inference="threshold"``; its modules' modes are left as they were.
        batches: Keyword arguments of ``forward``; ``labels`` are ignored.

    Returns:
        The mean of the layers' thresholds; ``mod_config(model).thresholds`` holds each.

    Raises:
        ConversionError: If the model has no thresholds, or the batches no routable token.
    """
    config = mod_config(model)
    if config.thresholds is None or config.inference != "threshold":
        raise ConversionError("calibration needs inference='threshold', this model has 'topk'")
    record = _Scores(config)
    with training_rule(model), evaluating(model), torch.no_grad():
        for batch in batches:
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            model(**inputs, routing_record=record, use_cache=False)
    thresholds = tuple(record.threshold(layer) for layer in config.layers)
    set_config(model, replace(config, thresholds=thresholds))
    return sum(thresholds) / len(thresholds)


@contextmanager
def training_rule(model: nn.Module) -> Iterator[None]:
    """Have a converted model route by top-k for a while, in evaluation mode too."""
    config = mod_config(model)
    set_config(model, replace(config, inference="topk"))
    try:
        yield
    finally:
        set_config(model, config)


class _Scores(RoutingRecord):
    """Scores of the routable tokens, per layer."""

    def __init__(self, config: MoDConfig) -> None:
        super().__init__()
        self._config = config
        self._scores: dict[int, list[Tensor]] = {}

    def observe(self, forward: Observed, layer: int, routed: Tensor, logits: Tensor | None) -> None:
        super().observe(forward, layer, routed, logits)
        if logits is not None:
            scores = selection_score(logits, self._config).view(-1)
            routable = forward.bins >= len(TokenKind)
            self._scores.setdefault(layer, []).append(scores[routable].cpu())

    def threshold(self, layer: int) -> float:
        scores = torch.cat(self._scores.get(layer, [torch.empty(0)]))
        if scores.numel() == 0:
            raise ConversionError("the calibration batches hold no routable token", layer)
        kept = round((1.0 - self.per_layer()[layer]["routable"]) * scores.numel())
        ordered = scores.sort(descending=True).values
        if kept >= scores.numel():
            return 0.0
        return float((ordered[kept - 1] + ordered[kept]) / 2)
