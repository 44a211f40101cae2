"""Orders of layers: how alike two are, and where a sorted profile bends."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def spearman(first: Floats, second: Floats) -> float | None:
    """Spearman's rank correlation of two profiles ``(layers,)``, ties sharing their mean place.

    Returns:
        A value in [-1, 1], or None if one of the two is constant and so has no order.
    """
    places = [_places(values) for values in (first, second)]
    if any(np.ptp(values) == 0 for values in places):
        return None
    correlation = float(np.corrcoef(places[0], places[1])[0, 1])
    return min(1.0, max(-1.0, correlation))


def knee(ascending: Floats) -> int:
    """How many values lie before the bend of a sorted profile.

    The bend is the point farthest below the chord from the first to the last value (the
    kneedle rule, Satopää et al., 2011); the values before it and itself are counted.

    Args:
        ascending: Sorted values ``(n,)``, ``n >= 1``.

    Returns:
        A count in ``[1, n]``: ``n`` if nothing lies below the chord.
    """
    chord = np.linspace(ascending[0], ascending[-1], len(ascending))
    below = chord - ascending
    if len(ascending) < 3 or below.max() <= 1e-12 * max(1.0, abs(float(ascending[-1]))):
        return len(ascending)
    return int(below.argmax()) + 1


def _places(values: Floats) -> Floats:
    """Place of each value in ascending order, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Floats = (last - (counts - 1) / 2)[inverse]
    return shared
