"""How sure routers are, and whether they say the same of every token."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from workloads.kinds import TokenKind
from workloads.mod import MoDConfig, RoutingRecord
from workloads.mod.record import Observed


class RouterHealth(RoutingRecord):
    """A record of what was skipped that also sums the routers' probabilities.

    The mean probability of "compute" over the routable tokens tells a collapse that counts cannot:
    a top-k layer computes its share of the tokens whatever its router says. A binary router's
    probability is its softmax, and a router behind a tanh has ``(1 + tanh) / 2``.

    Args:
        config: Of the converted model.
    """

    def __init__(self, config: MoDConfig) -> None:
        super().__init__()
        self._config = config
        self._sums: dict[int, Tensor] = {}

    def observe(self, forward: Observed, layer: int, routed: Tensor, logits: Tensor | None) -> None:
        """Count one layer of one forward; see `RoutingRecord.observe`."""
        super().observe(forward, layer, routed, logits)
        if logits is None or self._config.scorer not in ("binary", "scalar"):
            return
        scale = 2.0 if self._config.weight_norm == "tanh" else 1.0
        probability = (logits.detach() * scale).sigmoid().view(-1)
        routable = forward.bins >= len(TokenKind)
        total = torch.stack([(probability * routable).sum(), routable.sum()]).double()
        self._sums[layer] = self._sums[layer] + total if layer in self._sums else total

    def sums(self) -> list[float]:
        """Sum of probabilities and number of tokens of each converted layer, in turn."""
        nothing = torch.zeros(2, dtype=torch.float64)
        sums = [self._sums.get(layer, nothing).cpu() for layer in self._config.layers]
        flat: list[float] = torch.cat(sums).tolist()
        return flat


def entropies(config: MoDConfig, sums: list[float]) -> Mapping[int, tuple[float, float]]:
    """Per layer the mean probability, and its entropy as a share of that at the layer's capacity.

    Layers without routable tokens, or that compute them all, are left out.

    Args:
        config: Of the converted model.
        sums: From `RouterHealth.sums`, added up; empty if routers were not watched.
    """
    if not sums:
        return {}
    found: dict[int, tuple[float, float]] = {}
    pairs = zip(sums[::2], sums[1::2], strict=True)
    for layer, capacity, (total, count) in zip(
        config.layers, config.capacities, pairs, strict=True
    ):
        if count and capacity < 1.0 and math.isfinite(total):
            mean = min(total / count, 1.0)
            found[layer] = mean, _entropy(mean) / _entropy(capacity)
    return found


def _entropy(probability: float) -> float:
    """In bits, of a coin."""
    shares = (probability, 1.0 - probability)
    return -sum(share * math.log2(share) for share in shares if share > 0.0)
