"""Model FLOPs of a training, and what the device could do at most."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedModel

from workloads.mod import is_converted, mod_config
from workloads.training.config import Precision, TrainingConfig
from workloads.training.parts import named_parts

_PEAK_TFLOPS: dict[str, tuple[float, float]] = {
    "A100": (312.0, 19.5),
    "H100 PCIe": (756.0, 51.0),
    "H100 NVL": (835.0, 60.0),
    "H100": (989.0, 67.0),
    "H200": (989.0, 67.0),
    "L40S": (362.0, 91.6),
    "L4": (121.0, 30.3),
    "A10": (125.0, 31.2),
}
"""Part of a device's name to its dense peak in bfloat16 and in float32 without TF32, from NVIDIA's
data sheets; the first match counts."""


def peak_flops(device_name: str, precision: Precision) -> float | None:
    """Floating-point operations per second that a device can do at most; None if not known."""
    words = device_name.replace("-", " ").split()
    for name, tflops in _PEAK_TFLOPS.items():
        if all(part in words for part in name.split()):
            return tflops[precision == "fp32"] * 1e12
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFlops:
    """Matrix products of forward and backward, as in PaLM (arXiv 2204.02311, appendix B).

    Attention's own are left out. A weight costs 2 per token that passes it going forward, 2 more
    if a gradient goes through it, 2 more if it learns; what activation checkpointing computes
    twice counts once.
    """

    peak_per_s: float
    """Of one device."""

    per_image_token: float
    """In vision tower and projector, which see about as many patches as the decoder sees image
    tokens; a family that merges patches computes more than is counted."""

    per_token: float
    """In the decoder outside converted layers, and its head."""

    per_layer: Mapping[int, float]
    """Converted layer to what it costs per token that it computes."""

    @classmethod
    def of_model(
        cls, model: PreTrainedModel, config: TrainingConfig, device_name: str
    ) -> "StepFlops | None":
        """Price the tokens of ``model``, whose parts have been chosen; None on unknown devices."""
        peak = peak_flops(device_name, config.precision)
        if peak is None:
            return None
        layers = _layer_of_weights(model)
        lookup = id(model.get_input_embeddings().weight)
        head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        is_tied = head is not None and id(head.weight) == lookup
        parts = {"image": 0.0, "token": 0.0}
        per_layer = dict.fromkeys(layers.values(), 0.0)
        for _, weight, part in named_parts(model):
            shape = getattr(weight, "ds_shape", weight.shape)  # ZeRO 3 leaves empty weights
            if len(shape) < 2 or (id(weight) == lookup and not is_tied):
                continue
            in_language = part in ("language_model", "router")
            passes = in_language or "vision_tower" in config.trainable
            cost = math.prod(shape) * 2.0 * (1 + passes + weight.requires_grad)
            if id(weight) in layers:
                per_layer[layers[id(weight)]] += cost
            else:
                parts["token" if in_language else "image"] += cost
        return cls(
            peak_per_s=peak,
            per_image_token=parts["image"],
            per_token=parts["token"],
            per_layer=per_layer,
        )

    def of(self, tokens: float, image_tokens: float, skips: Mapping[str, float]) -> float:
        """FLOPs of so many tokens.

        Args:
            tokens: Without padding.
            image_tokens: The image tokens among them.
            skips: ``LAYER/all`` to the skipped share of all tokens.
        """
        layers = sum(
            cost * (1.0 - skips.get(f"{layer}/all", 0.0)) for layer, cost in self.per_layer.items()
        )
        return image_tokens * self.per_image_token + tokens * (self.per_token + layers)


def _layer_of_weights(model: PreTrainedModel) -> dict[int, int]:
    """Weights of converted layers, by identity, without their routers: those see every token."""
    if not is_converted(model):
        return {}
    layers = model.get_decoder().layers  # type: ignore[no-untyped-call]
    return {
        id(weight): index
        for index in mod_config(model).layers
        for name, weight in layers[index].named_parameters()
        if "mod_router" not in name
    }
