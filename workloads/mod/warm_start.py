"""First weights of routers from what the dense model needs, instead of from chance."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.errors import ConversionError
from workloads.kinds import TokenKind
from workloads.mod.anatomy import first_tensor
from workloads.mod.config import MoDConfig
from workloads.mod.convert import mod_config, set_config
from workloads.mod.foreign import Foreign
from workloads.mod.modes import evaluating
from workloads.mod.router import TokenRouter
from workloads.mod.routing import routed_count
from workloads.mod.routing_pass import kind_mask
from workloads.mod.scorers import scorer_class

_RIDGE = 1e-4
_ITERATIONS = 50


def warm_start_routers(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> float:
    """Teach the routers of a converted model which tokens its layers matter for.

    A random router prefers tokens along a random direction, its own loss rewards whatever it
    prefers, and a shared one skips the same tokens in every layer: whether the tokens that matter
    survive is luck. Here the need is measured. To first order, leaving out what a layer adds to a
    token changes the loss by the product of that update and the loss's gradient (Molchanov et
    al., arXiv 1611.06440, eq. 7); in each layer and row the ``capacity`` share of routable tokens
    with the largest product is what a router should keep. Each router is fitted to that by
    logistic regression on its own input.

    Args:
        model: Converted; its routers are overwritten, nothing else changes.
        batches: Keyword arguments of ``forward`` with ``labels`` and ``token_kinds``.

    Returns:
        Share of the routable tokens that the fitted routers sort as measured, in [0, 1].

    Raises:
        ConversionError: If its scorer is not linear, or the batches hold no labels or no
            routable token.
    """
    config = mod_config(model)
    if scorer_class(config) is not TokenRouter:
        raise ConversionError(f"a warm start fits linear routers, the scorer is {config.scorer!r}")
    examples: dict[TokenRouter, _Examples] = {}
    # All tokens computed, with weight 1: the dense model, at the routers' inputs.
    dense = replace(
        config,
        capacities=(1.0,) * len(config.layers),
        inference="topk",
        weight_scale=0.0,
        weight_bias=1.0,
    )
    set_config(model, dense)
    try:
        with evaluating(model):
            for batch in batches:
                _observe(model, config, batch, examples)
    finally:
        set_config(model, config)
    if not examples:
        raise ConversionError("the warm start's batches hold no routable token that matters")
    right = [_fit(router, seen.features, seen.wanted) for router, seen in examples.items()]
    return float(torch.cat(right).double().mean())


@dataclass(slots=True)
class _Examples:
    """What one router saw, and which tokens it should have kept."""

    features: list[Tensor] = field(default_factory=list)
    wanted: list[Tensor] = field(default_factory=list)


def _observe(
    model: Foreign,
    config: MoDConfig,
    batch: Mapping[str, Any],
    examples: dict[TokenRouter, _Examples],
) -> None:
    if "labels" not in batch or "token_kinds" not in batch:
        raise ConversionError("a warm start needs batches with labels and token_kinds")
    kinds: Tensor = batch["token_kinds"]
    routable = kind_mask(kinds, config.routable_kinds(is_training=True)) & (kinds != TokenKind.PAD)
    layers = model.get_decoder().layers
    shared = model.get_decoder().mod_router
    routers = [shared if config.shared_router else layers[i].mod_router for i in config.layers]
    with torch.enable_grad(), _watched(layers, config.layers, routers) as seen:
        loss = model(**batch, use_cache=False).loss
        gradients = torch.autograd.grad(loss, seen.outputs)
    for slot, router in enumerate(routers):
        update = seen.outputs[slot].detach() - seen.inputs[slot]
        change = (update.float() * gradients[slot].float()).sum(-1).abs()
        if not change[routable].any():
            continue  # nothing after the last layer reads what it adds to an image
        wanted = _largest(change.masked_fill(~routable, -1.0), routable, config, slot)
        found = examples.setdefault(router, _Examples())
        found.features.append(seen.features[slot][routable])
        found.wanted.append(wanted[routable])


def _largest(change: Tensor, routable: Tensor, config: MoDConfig, slot: int) -> Tensor:
    """Mask ``(batch, seq)`` of the tokens that the layer would keep if it knew."""
    capacity, rounding = config.capacities[slot], config.rounding
    counts = [routed_count(n, capacity, rounding) for n in routable.sum(1).tolist()]
    places = change.argsort(1, descending=True).argsort(1)
    return places < torch.tensor(counts, device=change.device).unsqueeze(1)


@dataclass(slots=True)
class _Seen:
    """Per converted layer, in order: hidden states ``(batch, seq, hidden)`` and router input."""

    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)


@contextmanager
def _watched(
    layers: Foreign, indices: tuple[int, ...], routers: list[TokenRouter]
) -> Iterator[_Seen]:
    seen = _Seen()

    def enter(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0]
        if not seen.inputs:
            hidden = hidden.detach().requires_grad_()  # gradients are needed from here on
        seen.inputs.append(hidden.detach())
        return (hidden, *args[1:])

    def leave(_: nn.Module, __: Foreign, output: Foreign) -> None:
        seen.outputs.append(first_tensor(output))

    handles = [layers[index].register_forward_pre_hook(enter) for index in indices]
    handles += [layers[index].register_forward_hook(leave) for index in indices]
    handles += [
        router.register_forward_pre_hook(lambda _, args: seen.features.append(args[0].detach()))
        for router in dict.fromkeys(routers)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _fit(router: TokenRouter, features: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Fit one router by logistic regression; returns which examples it gets right."""
    inputs, targets = torch.cat(features).float(), torch.cat(wanted).float()
    bias = None if router.bias is None else inputs.new_zeros(1)
    learned = [inputs.new_zeros(inputs.shape[1]), *([] if bias is None else [bias])]
    for tensor in learned:
        tensor.requires_grad_()
    optimizer = torch.optim.LBFGS(learned, max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def logits() -> Tensor:
        product = inputs @ learned[0]
        return product if bias is None else product + bias

    def loss() -> Tensor:
        optimizer.zero_grad()
        fit = F.binary_cross_entropy_with_logits(logits(), targets)
        total = fit + _RIDGE * learned[0].square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        router.start_from(learned[0].detach(), None if bias is None else bias.detach())
        kept = logits().sort(descending=True).indices[: int(targets.sum())]
        chosen = torch.zeros_like(targets).index_fill_(0, kept, 1.0)
        return chosen == targets
