"""One value of one metric."""

from typing import NamedTuple


class Point(NamedTuple):
    """A value of the metric ``key`` at ``step``, and when it was told.

    A repeated request carries the same time, by which MLflow recognises the point.
    """

    key: str
    step: int
    value: float
    time_ms: int
