"""Low-rank adapters (LoRA, arXiv 2106.09685) on the decoder, which learn in its weights' place."""

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from workloads.training.config import Lora
from workloads.training.errors import TrainingError
from workloads.training.parts import named_parts

_PART = "language_model"


def add_adapters(model: PreTrainedModel, lora: Lora, *, seed: int) -> None:
    """Put adapters beside the decoder's linear layers, routers left out; freeze its own weights.

    What else has been chosen to learn goes on learning as a whole.

    Args:
        model: Changed in place; its parts have been chosen.
        lora: Their size.
        seed: Of the adapters' first weights. They add nothing before the first update.

    Raises:
        TrainingError: If the decoder is not among the parts that learn.
    """
    learning = {id(each): part for _, each, part in named_parts(model) if each.requires_grad}
    if _PART not in learning.values():
        raise TrainingError(
            "lora trains adapters of the decoder, which is frozen: add language_model to "
            "`trainable`, or remove `lora`"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(_peft_config(model, lora), model)
    # The injection froze all else.
    for _, parameter, _ in named_parts(model):
        if learning.get(id(parameter), _PART) != _PART:
            parameter.requires_grad_(True)


def merge_adapters(model: PreTrainedModel) -> None:
    """Add what adapters learned into the weights beside them, and remove them."""
    adapted = [
        (name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)
    ]
    for name, module in adapted:
        assert isinstance(module, BaseTunerLayer)
        module.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.get_base_layer())


def _peft_config(model: PreTrainedModel, lora: Lora) -> LoraConfig:
    routers = {name.rsplit(".", 1)[0] for name, _, part in named_parts(model) if part == "router"}
    decoder = {id(module) for module in model.get_decoder().modules()}  # type: ignore[no-untyped-call]
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in decoder and name not in routers
    ]
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=targets,
    )
