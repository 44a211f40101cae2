"""Nominal skip: what a configuration promises for a batch, to stand beside what was measured."""

from torch import Tensor

from workloads.kinds import TokenKind
from workloads.mod.config import MoDConfig
from workloads.mod.routing import routed_count
from workloads.mod.routing_pass import kind_mask


def nominal_skip(config: MoDConfig, kinds: Tensor) -> tuple[float, float]:
    """Share of tokens that the capacities say is skipped, averaged over converted layers.

    Args:
        config: Capacities, rounding and routable kinds (those of training).
        kinds: int64 ``(batch, seq)`` of ``TokenKind``.

    Returns:
        ``skip_routable`` and ``skip_all``, with all tokens that are not padding as the second
        one's denominator; 0 where there is nothing to skip.
    """
    routable = kind_mask(kinds, config.routable_kinds(is_training=True)).sum(1).tolist()
    real = int((kinds != TokenKind.PAD).sum())
    skipped = [
        sum(count - routed_count(count, capacity, config.rounding) for count in routable)
        for capacity in config.capacities
    ]
    mean = sum(skipped) / len(skipped)
    return mean / max(sum(routable), 1), mean / max(real, 1)
