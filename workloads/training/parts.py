"""Which weights belong to which part of an image-text model, and which of them learn.

Works on any Hugging Face image-text model through ``get_decoder`` and ``get_encoder``: what
lies in neither is the projector, as are mergers that a family keeps inside its tower.
"""

import re
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from workloads.training.config import PART_RATES, Part, TrainingConfig
from workloads.training.errors import TrainingError

_ROUTER = re.compile(r"(^|\.)mod_router(\.|$)")
_PROJECTOR_IN_TOWER = re.compile(r"(^|\.)\w*(merger|projector|connector)\w*(\.|$)")


def named_parts(model: PreTrainedModel) -> Iterator[tuple[str, nn.Parameter, Part]]:
    """Yield name, parameter and part of every parameter once, in registration order."""
    tower = _parameters_of(_vision_tower(model))
    decoder, head = model.get_decoder(), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    language = _parameters_of(decoder) | _parameters_of(head)
    for name, parameter in model.named_parameters():
        yield name, parameter, _part(name, id(parameter), tower, language)


def choose_parts(model: PreTrainedModel, trainable: tuple[Part, ...]) -> None:
    """Let the named parts learn and freeze all others.

    Raises:
        TrainingError: If the model lacks a part that should learn. A missing ``router`` is
            not an error unless it is the only part: a dense twin shares its recipe.
    """
    present = {part for _, _, part in named_parts(model)}
    missing = [part for part in trainable if part not in present and part != "router"]
    if missing or not present.intersection(trainable):
        raise TrainingError(
            f"{type(model).__name__} has no {', '.join(missing or trainable)} to train: "
            f"its parts are {', '.join(sorted(present))}; change `trainable`"
        )
    for _, parameter, part in named_parts(model):
        parameter.requires_grad_(part in trainable)


def parameter_groups(model: PreTrainedModel, config: TrainingConfig) -> list[dict[str, Any]]:
    """Group the weights that learn by rate and decay, for an AdamW.

    Every group has a ``base_lr``, which the schedule multiplies. Vectors (biases, norms) are
    not decayed. Groups keep registration order, so that optimizer states line up on a resume.
    """
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for _, parameter, part in named_parts(model):
        if not parameter.requires_grad:
            continue
        own_rate = getattr(config, PART_RATES[part]) if part in PART_RATES else None
        rate, is_decayed = own_rate or config.learning_rate, parameter.ndim > 1
        group = groups.setdefault(
            (part if own_rate or part == "router" else "", is_decayed),
            {
                "params": [],
                "lr": rate,
                "base_lr": rate,
                "weight_decay": config.weight_decay if is_decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def _part(name: str, identity: int, tower: set[int], language: set[int]) -> Part:
    if _ROUTER.search(name):
        return "router"
    if identity in tower:
        return "projector" if _PROJECTOR_IN_TOWER.search(name) else "vision_tower"
    return "language_model" if identity in language else "projector"


def _vision_tower(model: PreTrainedModel) -> nn.Module | None:
    """Return the image encoder, or None for a text-only model (where lookups return the model)."""
    tower: nn.Module = model.get_encoder(modality="image")
    return None if _parameters_of(model) <= _parameters_of(tower) else tower


def _parameters_of(module: nn.Module | None) -> set[int]:
    return set() if module is None else {id(parameter) for parameter in module.parameters()}
