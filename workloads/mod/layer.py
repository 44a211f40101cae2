"""MoDLayer: a converted decoder layer. Gather, run the dense layer, scatter back."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from workloads.mod.anatomy import Anatomy, map_first
from workloads.mod.cache import MoDCacheLayer
from workloads.mod.foreign import Foreign
from workloads.mod.masks import additive, gathered_mask, seen_mask
from workloads.mod.packing import Packing, gathered, pack, unpack
from workloads.mod.routing import Selection, gather_tokens
from workloads.mod.routing_pass import RoutingPass


@dataclass(frozen=True, slots=True)
class LayerSlot:
    """Where a converted layer stands.

    Args:
        index: Its place among the converted layers.
        layer: Its index in the decoder.
        anatomy: Names of its parts.
    """

    index: int
    layer: int
    anatomy: Anatomy


class MoDLayer(nn.Module):
    """Base of every converted layer class; the dense layer class stands behind it in the MRO.

    Instances are never constructed: conversion changes the class of a dense layer, so its
    parameters keep their names, and sets ``mod_slot``.
    """

    dense_class: ClassVar[type[nn.Module]]
    mod_slot: LayerSlot
    mod_router: nn.Module | None

    def forward(self, hidden_states: Tensor, *args: Foreign, **kwargs: Foreign) -> Foreign:
        """Run the dense layer on the tokens that the router chose.

        Args:
            hidden_states: ``(batch, seq, hidden)``.
            *args: The dense layer's other positional arguments.
            **kwargs: Its keyword arguments, and ``routing_pass`` from the converted decoder.

        Returns:
            What the dense layer returns, with hidden states of all ``seq`` tokens.

        Raises:
            ValueError: If ``routing_pass`` is missing.
        """
        call = dict(zip(self.mod_slot.anatomy.arguments, args, strict=False)) | kwargs
        routing: RoutingPass | None = call.pop("routing_pass", None)
        if routing is None:
            raise ValueError("a Mixture-of-Depths layer runs only inside its converted decoder")
        routing = routing.to(hidden_states.device)
        slot = self.mod_slot.index
        logits = normed = None
        if routing.needs_router:
            normed = self._normed(hidden_states, routing)
            logits = self._router(routing)(hidden_states if normed is None else normed)
        weight = None if logits is None else routing.weights(logits)
        selection = None if logits is None else routing.choose(slot, logits)
        routing.observe(slot, logits, selection)
        if selection is None:
            return self._run_whole(hidden_states, normed, weight, call, routing)
        assert weight is not None
        return self._run_selected(hidden_states, normed, weight, selection, call, routing)

    def _normed(self, hidden_states: Tensor, routing: RoutingPass) -> Tensor | None:
        """What the layer's own norm makes of its input; None where routers see it as it is."""
        norm = self.mod_slot.anatomy.norm
        if routing.config.router_input == "raw" or norm is None:
            return None
        normed: Tensor = getattr(self, norm)(hidden_states)
        return normed

    def _router(self, routing: RoutingPass) -> nn.Module:
        router = routing.shared_router if routing.shared_router is not None else self.mod_router
        assert router is not None
        return router

    def _run_whole(
        self,
        hidden_states: Tensor,
        normed: Tensor | None,
        weight: Tensor | None,
        call: dict[str, Any],
        routing: RoutingPass,
    ) -> Foreign:
        cache = _layer_cache(call, self.mod_slot.layer)
        if cache is not None:
            self._use_cache(cache, routing.everything(), call, hidden_states, routing)
        with self._branch_times(weight), self._norm_gives(normed):
            return super().forward(hidden_states, **call)

    def _run_selected(
        self,
        hidden_states: Tensor,
        normed: Tensor | None,
        weight: Tensor,
        selection: Selection,
        call: dict[str, Any],
        routing: RoutingPass,
    ) -> Foreign:
        columns = selection.columns
        cache = _layer_cache(call, self.mod_slot.layer)
        if columns.shape[1] == 0:
            assert cache is not None
            cache.skip(hidden_states.shape[1])
            return self.mod_slot.anatomy.wrapped(hidden_states)
        packing = Packing.of(selection, routing.row_starts)
        self._gather_arguments(call, packing, routing)
        if cache is None or cache.is_empty:
            call["attention_mask"] = _prompt_mask(call, selection, hidden_states, routing)
        if cache is not None:
            self._use_cache(cache, selection, call, hidden_states, routing)
        elif routing.config.positions == "compact":
            _compact_positions(call, columns, 0, hidden_states, routing)
        packed, carried = pack(hidden_states, packing)
        known = None if normed is None else gathered(normed, packing)
        with self._branch_times(weight.gather(1, columns)), self._norm_gives(known):
            output = super().forward(packed, **call)
        scale = routing.carry_scale(weight)
        return map_first(output, lambda computed: unpack(carried, computed, packing, scale))

    def _gather_arguments(
        self, call: dict[str, Any], packing: Packing, routing: RoutingPass
    ) -> None:
        """Leave what belongs to skipped tokens out of the arguments."""
        tables = call["position_embeddings"]
        if tables is not None:
            call["position_embeddings"] = routing.position_tables(tables).at(packing)
        # transformers would take the gaps between kept positions for packed sequences.
        call["position_ids"] = None
        for name in self.mod_slot.anatomy.per_token:
            if call.get(name) is not None:
                call[name] = gather_tokens(call[name], packing.columns)

    def _use_cache(
        self,
        cache: MoDCacheLayer,
        selection: Selection,
        call: dict[str, Any],
        hidden_states: Tensor,
        routing: RoutingPass,
    ) -> None:
        """Announce the selection to the cache and set what depends on the keys stored before."""
        is_first, columns = cache.is_empty, routing.in_whole_sequence(selection)
        is_compact = routing.config.positions == "compact"
        stored = cache.stored_lengths() if is_compact else 0
        cache.extend(columns, selection.valid, hidden_states.shape[1])
        if is_compact:
            _compact_positions(call, columns, stored, hidden_states, routing)
        if not is_first:
            call["attention_mask"] = _cached_mask(
                call, selection, columns, cache, hidden_states, routing
            )

    @contextmanager
    def _branch_times(self, weight: Tensor | None) -> Iterator[None]:
        """Multiply the branch's output by ``weight`` ``(batch, tokens)`` while the layer runs."""
        if weight is None:
            yield
            return
        factor = weight.unsqueeze(-1)
        handle = getattr(self, self.mod_slot.anatomy.branch).register_forward_hook(
            lambda _module, _args, output: map_first(output, lambda t: t * factor.to(t.dtype))
        )
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def _norm_gives(self, known: Tensor | None) -> Iterator[None]:
        """Let the input norm return what the router has had it compute already."""
        name = self.mod_slot.anatomy.norm
        if known is None or name is None:
            yield
            return
        norm = self._modules[name]
        self._modules[name] = cast("nn.Module", lambda _: known)  # a module costs decoding time
        try:
            yield
        finally:
            self._modules[name] = norm


def _layer_cache(call: Mapping[str, Any], layer: int) -> MoDCacheLayer | None:
    cache = call.get("past_key_values")
    if cache is None:
        return None
    stored = cache.layers[layer]
    assert isinstance(stored, MoDCacheLayer)
    return stored


def _prompt_mask(
    call: Mapping[str, Any], selection: Selection, hidden_states: Tensor, routing: RoutingPass
) -> Tensor | None:
    given = call.get("attention_mask")
    if given is None:
        return None
    if routing.is_plain_causal:
        # Kept tokens come first, so causality alone hides the slots behind them.
        if not routing.adds_masks:
            return None
        return routing.causal(selection.columns.shape[1], hidden_states)
    mask = routing.tensor_mask(given, hidden_states.dtype)
    return gathered_mask(mask, selection.columns, selection.columns, selection.valid)


def _cached_mask(
    call: Mapping[str, Any],
    selection: Selection,
    columns: Tensor,
    cache: MoDCacheLayer,
    hidden_states: Tensor,
    routing: RoutingPass,
) -> Tensor | None:
    given = call.get("attention_mask")
    if given is not None and not routing.is_plain_causal:
        mask = routing.tensor_mask(given, hidden_states.dtype)
        return gathered_mask(mask, selection.columns, cache.columns, cache.valid)
    is_single = columns.shape[1] == 1 and selection.valid is None
    if "flash" in routing.attention or (is_single and cache.valid is None):
        return cache.valid
    if is_single and cache.valid is not None:
        seen = cache.valid[:, None, None, :]
    else:
        seen = seen_mask(columns, cache.columns, cache.valid)
    return additive(seen, hidden_states.dtype) if routing.adds_masks else seen


def _compact_positions(
    call: dict[str, Any],
    columns: Tensor,
    stored: Tensor | int,
    hidden_states: Tensor,
    routing: RoutingPass,
) -> None:
    """Number the tokens of this layer 0, 1, ... as the released gamma-MoD does."""
    assert routing.rotary is not None
    positions = torch.arange(columns.shape[1], device=columns.device).expand_as(columns) + stored
    call["position_embeddings"] = routing.rotary(hidden_states, positions)
