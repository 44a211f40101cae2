"""Progressive ratio decay: how many tokens each layer of p-MoD computes, by its depth."""

import math
from typing import Literal

Shape = Literal["cosine", "linear"]


def retention(layer: int, num_layers: int, *, shape: Shape, mean: float) -> float:
    """Share of tokens that ``layer`` would compute before the schedule's bounds apply.

    p-MoD (arXiv 2412.04449, section 3.4) writes ``cos(pi * l / 31) / 2 + beta`` for its 32
    layers; 31 is ``num_layers - 1`` here, so that the last layer of any depth ends the decay.

    Args:
        layer: 0-based index of the decoder layer.
        num_layers: Depth of the decoder, 2 or more.
        shape: ``"cosine"`` (shifted cosine) or ``"linear"`` (shifted linear).
        mean: The paper's beta: mean of the unbounded schedule over depth.

    Returns:
        The unbounded share; it may lie outside (0, 1].
    """
    depth = layer / (num_layers - 1)
    if shape == "cosine":
        return math.cos(math.pi * depth) / 2 + mean
    return 0.5 - depth + mean


def decay_schedule(
    num_layers: int,
    *,
    shape: Shape = "cosine",
    mean: float = 0.5,
    max_ratio: float = 0.85,
    min_ratio: float = 0.15,
) -> dict[int, float]:
    """Layers that become Mixture-of-Depths, and the share of routable tokens each computes.

    Args:
        num_layers: Depth of the decoder, 2 or more.
        shape: ``"cosine"`` or ``"linear"``.
        mean: Mean of the unbounded schedule.
        max_ratio: Layers above this share stay dense.
        min_ratio: No layer computes a smaller share than this.

    Returns:
        Layer index to capacity in ``[min_ratio, max_ratio]``, ascending by layer.

    Raises:
        ValueError: If an argument is out of range; the message names it.
    """
    if num_layers < 2:
        raise ValueError(f"num_layers must be 2 or more for a decay over depth, got {num_layers}")
    if shape not in ("cosine", "linear"):
        raise ValueError(f"shape must be 'cosine' or 'linear', got {shape!r}")
    if not 0.0 < min_ratio <= max_ratio <= 1.0:
        raise ValueError(
            "min_ratio and max_ratio must satisfy 0 < min_ratio <= max_ratio <= 1, "
            f"got min_ratio={min_ratio} and max_ratio={max_ratio}"
        )
    shares = {i: retention(i, num_layers, shape=shape, mean=mean) for i in range(num_layers)}
    return {i: max(share, min_ratio) for i, share in shares.items() if share <= max_ratio}
