"""Cost of one real prefill: closed form beside what was counted while it ran."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import Cache, PreTrainedModel

from workloads.evaluation.efficiency import TERA, DecoderShape, decoder_flops, kv_cache_bytes
from workloads.evaluation.errors import EvaluationError
from workloads.generation import model_inputs
from workloads.mod import RoutingRecord, is_converted


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefillCost:
    """What the prefill of one sample costs on average over a batch."""

    tokens: float
    """Real tokens of a sample."""
    kept: tuple[float, ...]
    """Tokens that each layer computed of them."""
    tflops_closed: float
    """By closed form from ``kept``; decoder layers only."""
    tflops_counted: float
    """Counted in the decoder layers while they ran, padding and routers included."""
    tflops_counted_model: float
    """Counted in the whole model: with vision encoder, projector and the head of one token."""
    kv_bytes_closed: float
    """Keys and values of ``kept`` tokens."""
    kv_bytes_counted: float
    """Keys and values that the cache held afterwards, its padding included."""
    tflops_per_layer: tuple[float, ...]
    """``tflops_counted`` by layer."""
    kv_bytes_per_layer: tuple[float, ...]
    """``kv_bytes_counted`` by layer."""

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)


@torch.no_grad()
def prefill_cost(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> PrefillCost:
    """Run one prefill and say what it cost, twice over.

    Args:
        model: Dense or converted; it is put into evaluation mode.
        batch: Prompts with ``attention_mask`` ``(batch, seq)``, and ``token_kinds``, which only
            a converted model is given.

    Raises:
        EvaluationError: If the model returns no cache to count.
    """
    model.eval()  # type: ignore[no-untyped-call]
    inputs = model_inputs(model, batch)
    record = RoutingRecord(keep_masks=True) if is_converted(model) else None
    if record is not None:
        inputs["routing_record"] = record
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    layers = model.get_decoder().layers  # type: ignore[no-untyped-call]
    with counter, _counted_by_layer(counter, layers) as per_layer:
        cache = model(**inputs, use_cache=True, logits_to_keep=1).past_key_values
    kept = _kept(inputs["attention_mask"], len(layers), record)
    cached = _cached_bytes(cache)
    rows = len(kept)
    shape = DecoderShape.of(model)
    return PrefillCost(
        tokens=float(inputs["attention_mask"].sum()) / rows,
        kept=tuple(sum(counts) / rows for counts in zip(*kept, strict=True)),
        tflops_closed=sum(decoder_flops(row, shape) for row in kept) / rows / TERA,
        tflops_counted=sum(per_layer) / rows / TERA,
        tflops_counted_model=counter.get_total_flops() / rows / TERA,
        kv_bytes_closed=sum(kv_cache_bytes(row, shape) for row in kept) / rows,
        kv_bytes_counted=sum(cached) / rows,
        tflops_per_layer=tuple(flops / rows / TERA for flops in per_layer),
        kv_bytes_per_layer=tuple(size / rows for size in cached),
    )


def _attention_flops(query: Size, key: Size, value: Size, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


_CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
"""Torch counts the GPU kernels of scaled dot product attention, but not the CPU's."""


@contextmanager
def _counted_by_layer(counter: FlopCounterMode, layers: nn.ModuleList) -> Iterator[list[int]]:
    """Operations of each layer's forward passes, filled in while the context is open."""
    flops = [0] * len(layers)
    hooks = []
    for index, layer in enumerate(layers):

        def enter(*_: object, index: int = index) -> None:
            flops[index] -= counter.get_total_flops()

        def leave(*_: object, index: int = index) -> None:
            flops[index] += counter.get_total_flops()

        hooks += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
    try:
        yield flops
    finally:
        for hook in hooks:
            hook.remove()


def _kept(real: Tensor, layers: int, record: RoutingRecord | None) -> list[tuple[int, ...]]:
    """Tokens each layer computed, by row: all real ones where nothing was routed."""
    lengths = real.sum(dim=1)
    masks = {} if record is None else record.masks
    counts = [
        (masks[i][-1] & real.bool()).sum(dim=1) if i in masks else lengths for i in range(layers)
    ]
    return [tuple(int(count) for count in row) for row in torch.stack(counts, dim=1)]


def _cached_bytes(cache: Cache | None) -> list[int]:
    if cache is None:
        raise EvaluationError("the model returned no key-value cache from its prefill")
    sizes = []
    for index, layer in enumerate(cache.layers):
        states = [getattr(layer, name, None) for name in ("keys", "values")]
        if not all(isinstance(tensor, Tensor) for tensor in states):
            raise EvaluationError(f"the cache of layer {index} holds no keys and values to count")
        sizes.append(sum(tensor.nbytes for tensor in states if tensor is not None))
    return sizes
