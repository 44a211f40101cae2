"""RoutingRecord: what Mixture-of-Depths layers skipped, measured while they ran."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from workloads.kinds import TokenKind


class Observed(Protocol):
    """What a record reads of a forward in progress."""

    @property
    def bins(self) -> Tensor:
        """Int64 ``(batch * seq,)``: kind of each token, plus ``len(TokenKind)`` if routable."""

    @property
    def bin_totals(self) -> Tensor:
        """Float64 ``(2 * len(TokenKind),)``: tokens in each bin."""


def count_bins(bins: Tensor, weights: Tensor) -> Tensor:
    """Sum ``weights`` by bin, float64 ``(2 * len(TokenKind),)``."""
    zeros = torch.zeros(2 * len(TokenKind), dtype=torch.float64, device=bins.device)
    return zeros.scatter_add_(0, bins, weights.double())


class RoutingRecord:
    """Counts skipped tokens per layer and kind, over any number of forwards.

    Pass one as ``routing_record`` to ``forward`` or ``generate``; in generation the prompt is
    counted, the generated tokens are not. Nothing waits for the device before the figures are
    asked for. Padding is neither a token nor skipped.

    Args:
        keep_masks: Also keep every layer's mask of routed tokens.

    Attributes:
        masks: Per layer, one bool ``(batch, seq)`` for each forward, True at routed tokens.
        lm_loss: Language-model loss of the last forward with labels, detached.
        router_losses: Each layer's router loss in that forward, detached.
    """

    def __init__(self, keep_masks: bool = False) -> None:
        self._keep_masks = keep_masks
        self._totals: dict[int, Tensor] = {}
        self._skipped: dict[int, Tensor] = {}
        self.masks: dict[int, list[Tensor]] = {}
        self.lm_loss: Tensor | None = None
        self.router_losses: dict[int, Tensor] = {}

    def observe(self, forward: Observed, layer: int, routed: Tensor, logits: Tensor | None) -> None:
        """Count one layer of one forward.

        Args:
            forward: The forward in progress.
            layer: Decoder layer index.
            routed: bool ``(batch, seq)``.
            logits: float32 ``(batch, seq)`` router logits, None if the router was not needed.
        """
        skipped = count_bins(forward.bins, ~routed.view(-1))
        for counts, new in ((self._totals, forward.bin_totals), (self._skipped, skipped)):
            counts[layer] = counts[layer] + new if layer in counts else new
        if self._keep_masks:
            self.masks.setdefault(layer, []).append(routed)

    @property
    def router_loss(self) -> Tensor | None:
        """Sum of :attr:`router_losses`, before ``aux_weight``; None if there was none."""
        losses = list(self.router_losses.values())
        return torch.stack(losses).sum() if losses else None

    def per_layer(self) -> dict[int, dict[str, float]]:
        """Skipped share of each layer's tokens, by kind and as ``all`` and ``routable``.

        Returns:
            Layer index to ``{"all", "routable", kinds seen: share in [0, 1]}``.
        """
        if not self._totals:
            return {}
        each = self.counts().tolist()  # the one wait for the device
        return {layer: shares_of(*pair) for layer, pair in zip(self.layers, each, strict=True)}

    @property
    def layers(self) -> list[int]:
        """Decoder layers that were counted, ascending."""
        return sorted(self._totals)

    def counts(self) -> Tensor:
        """What :func:`shares_of` takes, ``(layers, 2, bins)``: tokens, and skipped ones.

        They can be added up over records of the same layers.
        """
        device = self._totals[self.layers[0]].device
        pairs = [(self._totals[layer], self._skipped[layer]) for layer in self.layers]
        return torch.stack([torch.stack(pair).to(device) for pair in pairs])

    def skip_per_row(self, real: Tensor) -> list[float]:
        """Skipped share of each row's tokens in the first forward, averaged over the layers.

        Args:
            real: bool ``(batch, seq)``, False at padding.

        Raises:
            ValueError: If the record keeps no masks.
        """
        if not self._keep_masks:
            raise ValueError("a record tells rows apart with keep_masks=True only")
        if not self.masks:
            return [0.0] * len(real)
        routed = torch.stack([masks[0].to(real.device) for masks in self.masks.values()])
        skipped = (real & ~routed).sum(-1, dtype=torch.float64)
        shares: list[float] = (skipped / real.sum(-1)).mean(0).tolist()
        return shares

    def skip_all(self) -> float:
        """Skipped share of all tokens, averaged over the recorded layers; 0 if there are none."""
        return self._mean("all")

    def skip_routable(self) -> float:
        """Skipped share of the routable tokens, averaged over the recorded layers."""
        return self._mean("routable")

    def _mean(self, key: str) -> float:
        layers = self.per_layer()
        return sum(shares[key] for shares in layers.values()) / len(layers) if layers else 0.0


def shares_of(tokens: Sequence[float], lost: Sequence[float]) -> dict[str, float]:
    """Skipped shares of one layer's tokens, by kind and as ``all`` and ``routable``.

    Args:
        tokens: Their number in each bin, see :class:`Observed`.
        lost: The skipped ones among them.
    """
    kinds = len(TokenKind)
    real = [kind for kind in TokenKind if kind is not TokenKind.PAD]
    seen = {kind: tokens[kind] + tokens[kinds + kind] for kind in real}
    gone = {kind: lost[kind] + lost[kinds + kind] for kind in real}
    shares = {
        "all": sum(gone.values()) / max(sum(seen.values()), 1.0),
        "routable": sum(lost[kinds:]) / max(sum(tokens[kinds:]), 1.0),
    }
    named = {kind.name.lower(): gone[kind] / seen[kind] for kind in real if seen[kind]}
    return shares | named
