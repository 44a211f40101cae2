"""RoutingPass: what the layers of one forward share, travelling as an argument."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from workloads.kinds import TokenKind
from workloads.mod.config import MoDConfig
from workloads.mod.masks import additive, causal_mask, evaluated
from workloads.mod.packing import PositionTables
from workloads.mod.record import RoutingRecord, count_bins
from workloads.mod.router import branch_weight, router_loss, selection_score
from workloads.mod.routing import (
    Selection,
    routed_count,
    select_above,
    select_top,
    selection_of,
    slots_of,
)

# Slots of the fullest row, 0 for "no packing"; which of them are kept; their flat indices.
_Slots: TypeAlias = tuple[int, Tensor | None, Tensor | None]


@dataclass(slots=True, eq=False)
class RoutingPass:
    """Token kinds of one forward and everything that follows from them, computed once.

    Args:
        config: The model's MoD configuration.
        kinds: int64 ``(batch, seq)`` of ``TokenKind`` on the model's device; padding is PAD.
        real_counts: Tokens that are not padding, per row.
        routable_counts: Tokens that may be skipped, per row.
        routable_kinds: What ``routable_counts`` counted.
        is_training: Whether routing follows the training rule.
        past_length: Tokens already in the cache.
        shared_router: The decoder's router, if the layers share one.
        rotary: The decoder's rotary embedding, for compact positions.
        attention: Name of the attention implementation.
        is_plain_causal: Whether the decoder's mask is causal and padding, nothing else.
        losses: Receives the router loss of each layer.
        record: Where to count what was skipped.
        recorded: Layers that ``record`` has counted already: gradient checkpointing runs a
            layer twice.
        scores: Of each converted layer that has chosen, float32 ``(batch, seq)``.
    """

    config: MoDConfig
    kinds: Tensor
    real_counts: Sequence[int]
    routable_counts: Sequence[int]
    routable_kinds: tuple[TokenKind, ...]
    is_training: bool
    past_length: int
    shared_router: nn.Module | None
    rotary: nn.Module | None
    attention: str
    is_plain_causal: bool
    losses: dict[int, Tensor] | None
    record: RoutingRecord | None
    recorded: set[int] = field(default_factory=set)
    scores: dict[int, Tensor] = field(default_factory=dict)
    real: Tensor = field(init=False)
    routable: Tensor = field(init=False)
    _rank_bias: Tensor = field(init=False)
    _one: Tensor = field(init=False)
    _token_weight: Tensor | None = field(init=False, default=None)
    _everything: Selection | None = field(init=False, default=None)
    _bins: Tensor | None = field(init=False, default=None)
    _bin_totals: Tensor | None = field(init=False, default=None)
    _slots: dict[float, _Slots] = field(init=False, default_factory=dict)
    _generated: Tensor | None = field(init=False, default=None)
    _row_starts: Tensor | None = field(init=False, default=None)
    _tables: dict[int, tuple[object, PositionTables]] = field(init=False, default_factory=dict)
    _elsewhere: dict[torch.device, "RoutingPass"] = field(init=False, default_factory=dict)
    _causal: dict[int, Tensor] = field(init=False, default_factory=dict)
    _evaluated: dict[BlockMask, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.real = self.kinds != TokenKind.PAD
        self.routable = kind_mask(self.kinds, self.routable_kinds)
        infinite = torch.full((), torch.inf, device=self.kinds.device)
        self._rank_bias = torch.where(self.real, infinite, -infinite)
        self._one = torch.ones((), device=self.kinds.device)

    @property
    def needs_router(self) -> bool:
        """Whether routers have a say: always in training, so that every rank runs all of them."""
        return self.is_training or self.config.weigh_protected or sum(self.routable_counts) > 0

    @property
    def bins(self) -> Tensor:
        """Kind of each token, routable ones apart: see :class:`~workloads.mod.record.Observed`."""
        if self._bins is None:
            self._bins = (self.kinds + len(TokenKind) * self.routable).view(-1)
        return self._bins

    @property
    def bin_totals(self) -> Tensor:
        """Tokens in each bin."""
        if self._bin_totals is None:
            self._bin_totals = count_bins(self.bins, torch.ones_like(self.bins))
        return self._bin_totals

    def everything(self) -> Selection:
        """All tokens, for a layer that skips none: padding is stored and marked invalid."""
        if self._everything is None:
            columns = torch.arange(self.kinds.shape[1], device=self.kinds.device)
            valid = self.real if min(self.real_counts) < self.kinds.shape[1] else None
            self._everything = Selection(columns.expand_as(self.kinds), valid)
        return self._everything

    def in_whole_sequence(self, selection: Selection) -> Tensor:
        """Columns of a selection, int64 ``(batch, packed)``, counted from the first token ever."""
        if self.past_length == 0:
            return selection.columns
        if selection is not self._everything:
            return selection.columns + self.past_length
        if self._generated is None:
            self._generated = selection.columns + self.past_length
        return self._generated

    @property
    def row_starts(self) -> Tensor | None:
        """Where each sequence begins in the flat batch, ``(batch, 1)``; None for a batch of one."""
        batch, seq_len = self.kinds.shape
        if self._row_starts is None and batch > 1:
            starts = torch.arange(0, batch * seq_len, seq_len, device=self.kinds.device)
            self._row_starts = starts.unsqueeze(1)
        return self._row_starts

    def position_tables(self, given: Tensor | Sequence[Tensor]) -> PositionTables:
        """Position embeddings ready to be gathered from, made once per forward."""
        if id(given) not in self._tables:
            # The tables are kept so that no others get their id.
            self._tables[id(given)] = (given, PositionTables(given))
        return self._tables[id(given)][1]

    def to(self, device: torch.device) -> "RoutingPass":
        """The same on another device, for models spread over several."""
        if self.kinds.device == device:
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = replace(self, kinds=self.kinds.to(device))
        return self._elsewhere[device]

    def weights(self, logits: Tensor) -> Tensor:
        """Weight of each token's branch, float32 ``(batch, seq)``; 1 where it is not weighted."""
        weight = branch_weight(logits, self.config)
        if self.config.weigh_protected:
            return weight
        return torch.where(self.routable, weight, self._one)

    def carry_scale(self, weight: Tensor) -> Tensor | None:
        """What skipped tokens are multiplied by, ``(batch, seq)``; None for nothing (STRing)."""
        if self.config.reweight == "routed":
            return None
        return torch.where(self.routable, weight, 1.0) if self.config.weigh_protected else weight

    def choose(self, slot: int, logits: Tensor) -> Selection | None:
        """Tokens that the ``slot``-th converted layer computes, or None for all of them."""
        if sum(self.routable_counts) == 0:  # so it is for every generated token
            return None
        self.scores[slot] = logits = logits.detach()
        if self.is_training or self.config.inference == "topk":
            return self._best(logits, self.config.capacities[slot])
        return self._above(selection_score(logits, self.config), slot)

    def check_scores(self) -> None:
        """Look at all layers' scores behind the forward: it waits for the device once.

        Raises:
            ValueError: If some were NaN, which sorts above everything, or infinite: a broken
                router would go on in silence.
        """
        if not self.scores:
            return
        scores = torch.stack([scores.to(self.kinds.device) for scores in self.scores.values()])
        flags = scores.isfinite().flatten(1).all(1).tolist()
        for slot, is_finite in zip(self.scores, flags, strict=True):
            if not is_finite:
                raise ValueError(
                    f"router scores of layer {self.config.layers[slot]} are NaN or infinite: look "
                    "at the weights of mod_router and the hidden states before it"
                )

    def observe(self, slot: int, logits: Tensor | None, selection: Selection | None) -> None:
        """Note one layer's router loss and what it skipped; a repeated call changes no count."""
        wants_loss = self.losses is not None and logits is not None
        if not wants_loss and self.record is None:
            return
        layer = self.config.layers[slot]
        routed = self.real
        if selection is not None:
            routed = selection.routed_mask(self.kinds.shape[1])
        if self.record is not None and self.past_length == 0 and layer not in self.recorded:
            self.recorded.add(layer)
            self.record.observe(self, layer, routed, logits)
        if wants_loss:
            assert self.losses is not None
            assert logits is not None
            self.losses[layer] = router_loss(logits, routed, self._weight_per_token())

    @property
    def adds_masks(self) -> bool:
        """Whether attention adds a tensor to its scores and has no flag for causality."""
        return self.attention in ("eager", "flex_attention")

    def tensor_mask(self, given: Tensor | BlockMask, dtype: torch.dtype) -> Tensor:
        """A family's own mask as a tensor; flex attention's is evaluated once per forward."""
        if isinstance(given, Tensor):
            return given
        if given not in self._evaluated:
            self._evaluated[given] = additive(evaluated(given), dtype)
        return self._evaluated[given]

    def causal(self, length: int, like: Tensor) -> Tensor:
        """Additive causal mask for the batch of ``like``, made once per length."""
        if length not in self._causal:
            self._causal[length] = causal_mask(length, like.dtype, like.device)
        return self._causal[length].expand(like.shape[0], -1, -1, -1)

    def _best(self, logits: Tensor, capacity: float) -> Selection | None:
        if capacity not in self._slots:
            self._slots[capacity] = self._slots_for(capacity, logits.device)
        packed, valid, slots = self._slots[capacity]
        if packed == 0:
            return None
        # A saturated score makes ties that its logit does not (semantics.md, defect 13).
        ranked = torch.where(self.routable, logits, self._rank_bias)
        return select_top(ranked, packed, valid, slots)

    def _slots_for(self, capacity: float, device: torch.device) -> _Slots:
        rounding = self.config.rounding
        skipped = [n - routed_count(n, capacity, rounding) for n in self.routable_counts]
        if not any(skipped):
            return 0, None, None
        counts = [real - skip for real, skip in zip(self.real_counts, skipped, strict=True)]
        return max(counts), *slots_of(counts, device)

    def _above(self, scores: Tensor, slot: int) -> Selection | None:
        assert self.config.thresholds is not None
        threshold: float | Tensor = self.config.thresholds[slot]
        if self.past_length > 0 and self.config.decode_threshold is not None:
            generated = self.kinds == TokenKind.ANSWER
            threshold = torch.where(generated, self.config.decode_threshold, threshold)
        kept = select_above(
            scores, threshold, self.routable, self.real, keep_one=self.past_length == 0
        )
        return selection_of(kept, self.real_counts)

    def _weight_per_token(self) -> Tensor:
        if self._token_weight is None:
            self._token_weight = self.real.float() / sum(self.real_counts)
        return self._token_weight


def kind_mask(kinds: Tensor, wanted: Sequence[TokenKind]) -> Tensor:
    """Mask like ``kinds``, True where the kind is one of ``wanted``."""
    mask = torch.zeros_like(kinds, dtype=torch.bool)
    for kind in wanted:
        mask |= kinds == kind
    return mask
