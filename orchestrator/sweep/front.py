"""Which trials no other one beats, how good they are together, and where more stops to pay.

Points are costs: every coordinate is to be low. For accuracy that is ``1 - accuracy``.
"""

from collections.abc import Sequence

Point = Sequence[float]


def pareto(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other point beats; of equal ones the first."""
    return [
        index
        for index, point in enumerate(points)
        if not any(
            _dominates(other, point) or (tuple(other) == tuple(point) and before < index)
            for before, other in enumerate(points)
        )
    ]


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Volume between the points and a reference that is worse than they are.

    Exact, by slices along the last coordinate; points that are not better than the reference in
    every coordinate add nothing.
    """
    inside = [tuple(p) for p in points if all(a < b for a, b in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return float(reference[0] - min(point[0] for point in inside))
    inside.sort(key=lambda point: point[-1])
    volume = 0.0
    for index, point in enumerate(inside):
        above = inside[index + 1][-1] if index + 1 < len(inside) else reference[-1]
        if above > point[-1]:
            base = hypervolume([other[:-1] for other in inside[: index + 1]], reference[:-1])
            volume += base * (above - point[-1])
    return volume


def knee(points: Sequence[Point]) -> int:
    """Index of the point of a front farthest below the straight line between its two ends.

    Of two coordinates, each scaled to the extent of the front; with fewer than three points on it,
    or all of them on the line, the one closest to the best of both.

    Raises:
        ValueError: If there are no points.
    """
    front = pareto(points)
    lows = [min(points[i][axis] for i in front) for axis in (0, 1)]
    spans = [max(points[i][axis] for i in front) - lows[axis] or 1.0 for axis in (0, 1)]
    # On the scaled front the line runs from (0, 1) to (1, 0): what lies below it sums to less.
    sums = [sum((points[i][axis] - lows[axis]) / spans[axis] for axis in (0, 1)) for i in front]
    return front[sums.index(min(sums))]


def _dominates(one: Point, other: Point) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
