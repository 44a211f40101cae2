"""Capacities that follow ARank: what is less redundant computes more."""

from collections.abc import Sequence

from workloads.arank.errors import ARankError
from workloads.arank.profile import ARankProfile


def capacities_by_rank(
    profile: ARankProfile, layers: Sequence[int], mean_capacity: float
) -> tuple[float, ...]:
    """Capacities proportional to the layers' ARank, with a given mean and none above 1.

    What a layer cannot take because it computes every token already goes to the others, in
    proportion again.

    Args:
        profile: The measurement.
        layers: The layers to convert.
        mean_capacity: Mean over ``layers``, in (0, 1].

    Returns:
        One capacity in (0, 1] per layer, in the order of ``layers``.

    Raises:
        ARankError: If the budget is out of range, or a layer's ARank is 0.
    """
    if not 0.0 < mean_capacity <= 1.0:
        raise ARankError(f"the mean capacity must be in (0, 1], got {mean_capacity}")
    ranks = {layer: float(profile.mean[layer]) for layer in layers}
    for layer, rank in ranks.items():
        if rank <= 0.0:
            raise ARankError("its ARank is 0, so no share can be proportional to it", layer)
    left, open_layers = mean_capacity * len(ranks), dict(ranks)
    capacities: dict[int, float] = {}
    while open_layers:
        scale = left / sum(open_layers.values())
        full = [layer for layer, rank in open_layers.items() if rank * scale >= 1.0]
        if not full:
            capacities.update({layer: rank * scale for layer, rank in open_layers.items()})
            break
        capacities.update(dict.fromkeys(full, 1.0))
        left -= len(full)
        open_layers = {layer: rank for layer, rank in open_layers.items() if layer not in full}
    return tuple(capacities[layer] for layer in layers)
