"""What to turn when a training does not fit, with the effect that can be estimated."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from workloads.training.config import TrainingConfig
from workloads.training.errors import TrainingError
from workloads.training.meter import peak_memory
from workloads.training.ranks import Ranks

_GIB = 2**30


@contextmanager
def advice_on_memory(
    model: PreTrainedModel, config: TrainingConfig, ranks: Ranks, step: int
) -> Iterator[None]:
    """Explain running out of memory in optimizer step ``step`` (1-based).

    Raises:
        TrainingError: In the place of torch's error, with `what_to_turn`.
    """
    try:
        yield
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        advice = what_to_turn(model, config, ranks, peak_memory(ranks.device))
        raise TrainingError(advice, step) from error


def _is_out_of_memory(error: Exception) -> bool:
    is_on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or is_on_cpu


def what_to_turn(
    model: PreTrainedModel, config: TrainingConfig, ranks: Ranks, peak_bytes: int
) -> str:
    """Name the knobs that free most of a rank's memory, the largest first.

    Weights, gradients and optimizer states are computed from the model's size (AdamW: two states
    and, in bf16, a float32 copy); what the peak has beyond them is taken for activations.

    Args:
        model: What is trained, whole or partitioned.
        config: As it was when memory ran out.
        ranks: Who trains.
        peak_bytes: Of this rank.
    """
    weights, learning = _sizes(model)
    width, states = (2, 12) if config.precision == "bf16" else (4, 8)
    stage, size = config.zero_stage, ranks.size
    parts = {
        1: ("zero_stage: 1", states * learning),
        2: ("zero_stage: 2", (states + width) * learning),
        3: ("zero_stage: 3", (states + width) * learning + width * weights),
    }
    sharded = parts[stage][1] if stage else 0
    fixed = parts[3][1] - sharded * (size - 1) / size
    activations = max(0.0, peak_bytes - fixed)
    knobs = {
        name: (of - sharded) * (size - 1) / size for at, (name, of) in parts.items() if at > stage
    }
    if not config.offload_optimizer and ranks.device.type == "cuda":
        knobs["offload_optimizer: true"] = states * learning / (size if stage else 1)
    micro_batch = config.micro_batch or config.rows_of_a_rank(size)
    if micro_batch > 1:
        knobs[f"micro_batch: {micro_batch // 2}"] = activations / 2
    if not config.gradient_checkpointing:
        # Layers' inputs stay, about the square root of what there was.
        depth = model.config.get_text_config().num_hidden_layers
        knobs["gradient_checkpointing: true"] = activations * (1 - 1 / math.sqrt(depth))
    if config.lora is None:
        knobs["lora: {}"] = (states + width) * learning / (size if stage else 1)
    found = sorted(knobs.items(), key=lambda knob: -knob[1])
    told = ", ".join(f"`{name}` (about {of / _GIB:.2g} GiB)" for name, of in found if of > 0)
    return (
        f"out of memory at {peak_bytes / _GIB:.2g} GiB, of which weights, gradients and optimizer "
        f"take about {fixed / _GIB:.2g}; to free memory on every worker set "
        f"{told or 'more workers, all else is set'}"
    )


def _sizes(model: PreTrainedModel) -> tuple[int, int]:
    """Weights, and those that learn; partitioned ones know their whole size."""
    sizes = [
        (int(getattr(weight, "ds_numel", weight.numel())), weight.requires_grad)
        for weight in model.parameters()
    ]
    return sum(count for count, _ in sizes), sum(count for count, learns in sizes if learns)
