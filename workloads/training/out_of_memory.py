"""What to turn when a training does not fit, with the effect that can be estimated."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from transformers import PreTrainedModel

from workloads.training.config import TrainingConfig
from workloads.training.errors import TrainingError
from workloads.training.meter import peak_memory
from workloads.training.parts import named_parts
from workloads.training.ranks import Ranks

_GIB = 2**30


@contextmanager
def advice_on_memory(
    model: PreTrainedModel,
    config: TrainingConfig,
    ranks: Ranks,
    *,
    can_shard: bool,
    step: int | None = None,
) -> Iterator[None]:
    """Explain running out of memory.

    Args:
        model: What learns; its parts have been chosen.
        config: How it learns.
        ranks: Who trains.
        can_shard: See `Engine.can_shard`.
        step: 1-based optimizer step; None outside of one, where no activations are held.

    Raises:
        TrainingError: In the place of torch's error, with the knobs that would free most.
    """
    try:
        yield
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        budget = _Budget.of(model, config, ranks, can_shard=can_shard)
        knobs = budget.knobs(config, is_on_device=isinstance(error, torch.OutOfMemoryError))
        peak_bytes = peak_memory(ranks.device)
        if step is not None:
            knobs |= _activation_knobs(model, config, ranks, max(0.0, peak_bytes - budget.fixed))
        raise TrainingError(_told(knobs, peak_bytes, budget.fixed), step) from error


def _is_out_of_memory(error: Exception) -> bool:
    is_on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or is_on_cpu


def _told(knobs: Mapping[str, float], peak_bytes: int, fixed_bytes: float) -> str:
    """Name the knobs that free most of a rank's memory, the largest first."""
    found = sorted(knobs.items(), key=lambda knob: -knob[1])
    told = ", ".join(f"`{name}` (about {of / _GIB:.3g} GiB)" for name, of in found if of > 0)
    return (
        f"out of memory at {peak_bytes / _GIB:.3g} GiB, of which weights, gradients and optimizer "
        f"take about {fixed_bytes / _GIB:.3g}; to free memory on every worker set "
        f"{told or 'more workers, all else is set'}"
    )


@dataclass(frozen=True, slots=True)
class _Budget:
    """Bytes of weights, gradients and AdamW's states, in bf16 with a float32 copy."""

    weights: int
    gradients: int
    states: int
    of_language: int
    """Gradients and states of the language model."""
    stage: int
    ranks: int
    is_offloaded: bool

    @classmethod
    def of(
        cls, model: PreTrainedModel, config: TrainingConfig, ranks: Ranks, *, can_shard: bool
    ) -> Self:
        is_short = can_shard and config.precision == "bf16"
        width, states = (2, 12) if is_short else (4, 8)
        every, learning, language = _sizes(model)
        return cls(
            weights=width * every,
            gradients=width * learning,
            states=states * learning,
            of_language=(width + states) * language,
            stage=config.zero_stage if can_shard else -1,
            ranks=ranks.size,
            is_offloaded=config.offload_optimizer,
        )

    @property
    def fixed(self) -> float:
        """Bytes of one rank's memory."""
        return self._at(self.stage)

    def knobs(self, config: TrainingConfig, *, is_on_device: bool) -> dict[str, float]:
        """What sharding, offload and adapters would free."""
        now = self.fixed
        stages = range(self.stage + 1, 4) if self.stage >= 0 else ()
        found = {f"zero_stage: {stage}": now - self._at(stage) for stage in stages if stage > 0}
        if is_on_device and self.stage > 0 and not self.is_offloaded:
            found["offload_optimizer: true"] = self.states / self.ranks
        if config.lora is None and "language_model" in config.trainable:
            found["lora: {}"] = self.of_language / (self.ranks if self.stage > 0 else 1)
        return found

    def _at(self, stage: int) -> float:
        """Bytes of one rank at a ZeRO stage."""
        parts = ((self.weights, 3), (self.gradients, 2), (self.states, 1))
        held = [size / self.ranks if stage >= first else float(size) for size, first in parts]
        return held[0] + held[1] + (0.0 if self.is_offloaded else held[2])


def _activation_knobs(
    model: PreTrainedModel, config: TrainingConfig, ranks: Ranks, activations: float
) -> dict[str, float]:
    """What is left of the peak, shared among fewer samples, or computed twice."""
    knobs: dict[str, float] = {}
    rows = config.rows_of_a_rank(ranks.size)
    micro_batch = config.micro_batch or rows
    smaller = [size for size in range(1, micro_batch // 2 + 1) if not rows % size]
    if smaller:
        knobs[f"micro_batch: {smaller[-1]}"] = activations * (1 - smaller[-1] / micro_batch)
    if not config.gradient_checkpointing:
        # Layers' inputs stay, about the square root of what there was.
        depth = model.config.get_text_config().num_hidden_layers
        knobs["gradient_checkpointing: true"] = activations * (1 - 1 / math.sqrt(depth))
    return knobs


def _sizes(model: PreTrainedModel) -> tuple[int, int, int]:
    """Weights, those that learn, those of the language model that do; of all ranks together."""
    sizes = [
        (int(getattr(weight, "ds_numel", weight.numel())), weight.requires_grad, part)
        for _, weight, part in named_parts(model)
    ]
    learning = [(count, part) for count, learns, part in sizes if learns]
    language = sum(count for count, part in learning if part == "language_model")
    return sum(size[0] for size in sizes), sum(count for count, _ in learning), language
