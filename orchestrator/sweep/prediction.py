"""What a trial's model will cost, as far as closed form can tell before anything runs.

Layers cost the same wherever they are, so it is enough to know how many are converted, and which
share of which tokens each of them computes. Policies that read ranks alone to decide how many
are left out; capacities in proportion to ranks are taken as equal, which is the cheapest case.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from orchestrator.recipe import ChosenLayers, PMoD, Recipe
from workloads.arank import ARankProfile, select_layers
from workloads.evaluation import DecoderShape, decoder_flops, kv_cache_bytes
from workloads.kinds import TokenKind
from workloads.mod import MoDConfig
from workloads.mod.routing import routed_count

_DEPEND_ON_RANKS = ("threshold", "knee")

Prompt = Mapping[str, int]
"""Name of a token kind to the number of tokens of that kind."""


def predict(
    recipe: Recipe, shape: DecoderShape, prompts: Sequence[Prompt]
) -> dict[str, float] | None:
    """Shares of the dense twin's prefill compute and cache: ``tflops`` and ``kv``.

    Args:
        recipe: Of one trial.
        shape: Of the decoder.
        prompts: What the shares are averaged over.

    Returns:
        The shares, or None if only a measurement can tell.

    Raises:
        ARankError: If the layer policy cannot be applied to so many layers.
        ValueError: If a value of the section ``mod`` is out of range.
    """
    config = _config(recipe, shape.layers)
    if config is None:
        return None
    kept = [_kept(config, shape.layers, prompt) for prompt in prompts]
    dense = [[sum(prompt.values())] * shape.layers for prompt in prompts]
    return {
        name: sum(cost(row, shape) for row in kept) / sum(cost(row, shape) for row in dense)
        for name, cost in (("tflops", decoder_flops), ("kv", kv_cache_bytes))
    }


def _kept(config: MoDConfig, layers: int, prompt: Prompt) -> list[int]:
    """Tokens that each layer computes of a prompt."""
    total = sum(prompt.values())
    routable = sum(prompt.get(kind.name, 0) for kind in config.routable_kinds(is_training=True))
    kept = [total] * layers
    for layer, capacity in zip(config.layers, config.capacities, strict=True):
        kept[layer] = total - routable + routed_count(routable, capacity, config.rounding)
    return kept


def _config(recipe: Recipe, layers: int) -> MoDConfig | None:
    section = recipe.mod
    if isinstance(section, PMoD):
        return MoDConfig.p_mod(layers, **section.model_dump(exclude={"method"}))
    assert isinstance(section, ChosenLayers)
    if section.layers.policy in _DEPEND_ON_RANKS:
        return None
    any_ranks = ARankProfile.from_ranks(np.arange(layers).reshape(1, layers, 1), ["any"])
    chosen = select_layers(any_ranks, **section.layers.model_dump())
    preset = MoDConfig.gamma if section.method == "gamma" else MoDConfig.random
    options = section.model_dump(exclude={"method", "layers", "capacities", "warm_start"})
    return preset(layers=tuple(chosen), **options)


def prompt_of(kinds: Sequence[int]) -> dict[str, int]:
    """Count the token kinds of one sequence, padding left out."""
    names = [TokenKind(kind).name for kind in kinds if kind != TokenKind.PAD]
    return {name: names.count(name) for name in sorted(set(names))}
