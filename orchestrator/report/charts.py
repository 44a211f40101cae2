"""Charts as inline SVG: colours are CSS classes, so that they follow the page's theme."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDE, HALF = 940.0, 440.0
"""Widths of a drawing that fills the page, or half of it, so that text has one size in both."""

_HEIGHT = 260.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 16.0, 30.0, 36.0
_WINDOWS = 20
"""A running mean goes over a twentieth of its line."""
_FLAT = 0.6
"""Bars whose lowest is above this share of the highest are drawn from a later start."""
_MAX_POINTS = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar: its name below it, a whisker of one standard error, and a note on hover."""

    name: str
    value: float
    error: float | None
    css: str
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line: ``points`` are (x, y), ascending in x."""

    name: str
    css: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to places on the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)


def bar_chart(bars: Sequence[Bar], *, y_label: str, x_label: str) -> str:
    """Draw bars with gridlines behind and values above.

    The axis starts at zero unless the bars then looked all alike; it says so if it does not.
    """
    top = max((bar.value + (bar.error or 0.0) for bar in bars), default=0.0) or 1.0
    low = min((bar.value - (bar.error or 0.0) for bar in bars), default=0.0)
    ticks = nice_ticks(low - (top - low) / 2 if low > _FLAT * top else 0.0, top)
    if ticks[0]:
        y_label = f"{y_label} (axis starts at {ticks[0]:g})"
    y = _Scale(ticks[0], ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    slot = (WIDE - _LEFT - _RIGHT) / max(len(bars), 1)
    parts = [*_grid(ticks, y, WIDE), *_axis_names(x_label, y_label, WIDE)]
    for index, bar in enumerate(bars):
        parts.append(_bar(bar, _LEFT + slot * index, slot, y, has_value=len(bars) <= 24))
    return _svg(parts, f"{y_label} by {x_label}", WIDE)


def line_chart(series: Sequence[Series], *, y_label: str, x_label: str, width: float) -> str:
    """Draw each series faintly, and its running mean over it."""
    drawn = [line for line in series if line.points]
    xs = [x for line in drawn for x, _ in line.points] or [0.0, 1.0]
    ys = [y for line in drawn for _, y in line.points] or [0.0, 1.0]
    ticks = nice_ticks(min(0.0, *ys), max(ys))
    x = _Scale(min(xs), max(xs), _LEFT, width - _RIGHT)
    y = _Scale(ticks[0], ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [*_grid(ticks, y, width), *_axis_names(x_label, y_label, width)]
    for tick in nice_ticks(min(xs), max(xs)):
        if min(xs) <= tick <= max(xs):
            place = f'x="{x(tick):.1f}" y="{_HEIGHT - _BOTTOM + 16:.1f}"'
            parts.append(f'<text class="tick" {place} text-anchor="middle">{tick:g}</text>')
    for line in drawn:
        parts.append(_path(_thinned(line.points), x, y, f"{line.css} raw"))
        parts.append(_path(_thinned(smoothed(line.points)), x, y, line.css))
    return _svg(parts, f"{y_label} by {x_label}", width)


def dumbbells(rows: Sequence[tuple[str, float, float]], *, width: float) -> str:
    """Draw pairs of shares: per row its name, and the dense and the MoD value on one line."""
    height, left = 34.0, 110.0
    low = min((min(dense, mod) for _, dense, mod in rows), default=0.0)
    ticks = nice_ticks(math.floor(max(low - 0.02, 0.0) * 10) / 10, 1.0)
    x = _Scale(ticks[0], ticks[-1], left, width - 24)
    bottom = _TOP + height * len(rows)
    parts = [
        f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{_TOP}" y2="{bottom}"/>'
        f'<text class="tick" x="{x(t):.1f}" y="{bottom + 16}" text-anchor="middle">{t:.0%}</text>'
        for t in ticks
    ]
    for index, (name, dense, mod) in enumerate(rows):
        y = _TOP + height * (index + 0.5)
        parts.append(
            f'<text class="name" x="{left - 12}" y="{y + 4}" text-anchor="end">'
            f"{escape(name)}</text>"
            f'<line class="pair" x1="{x(dense):.1f}" x2="{x(mod):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="dense" cx="{x(dense):.1f}" cy="{y}" r="7.5">'
            f"<title>{escape(name)}, dense: {dense:.1%}</title></circle>"
            f'<circle class="mod" cx="{x(mod):.1f}" cy="{y}" r="4.5">'
            f"<title>{escape(name)}, MoD: {mod:.1%}</title></circle>"
        )
    return _svg(parts, "Accuracy by kind of question", width, height=bottom + 26)


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that cover ``low`` to ``high``: steps of 1, 2 or 5 times a power of ten."""
    span = (high - low) or abs(high) or 1.0
    raw = span / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(step * index, 12) for index in range(first, max(last, first + 1) + 1)]


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Exponential running mean of y over a twentieth of the points, unbiased at the start."""
    window = max(1, len(points) // _WINDOWS)
    keep = 1 - 2 / (window + 1)
    mean, weight, result = 0.0, 0.0, []
    for x, y in points:
        mean = keep * mean + (1 - keep) * y
        weight = keep * weight + (1 - keep)
        result.append((x, mean / weight))
    return result


def losses(history: Mapping[str, object], key: str) -> list[tuple[float, float]]:
    """(step, value) of one metric of a ``history.json``; points without it are left out."""
    points = history.get("points", [])
    assert isinstance(points, list)
    return [(float(point["step"]), float(point[key])) for point in points if key in point]


def _bar(bar: Bar, left: float, slot: float, y: _Scale, *, has_value: bool) -> str:
    width = min(slot * 0.62, 54.0)
    x, middle, floor = left + (slot - width) / 2, left + slot / 2, y.start
    head = y(bar.value + (bar.error or 0.0))
    parts = [
        f'<rect class="bar {bar.css}" x="{x:.1f}" y="{y(bar.value):.1f}" width="{width:.1f}" '
        f'height="{floor - y(bar.value):.1f}" rx="3"/>',
        f'<text class="tick" x="{middle:.1f}" y="{floor + 16:.1f}" text-anchor="middle">'
        f"{escape(bar.name)}</text>",
    ]
    if bar.error:
        low = y(bar.value - bar.error)
        parts.append(f'<path class="whisker" d="M{middle:.1f} {low:.1f}V{head:.1f}"/>')
    if has_value:
        parts.append(
            f'<text class="value" x="{middle:.1f}" y="{head - 6:.1f}" text-anchor="middle">'
            f"{bar.value:.1f}</text>"
        )
    return f"<g><title>{escape(bar.note)}</title>{''.join(parts)}</g>"


def _grid(ticks: Sequence[float], y: _Scale, width: float) -> list[str]:
    return [
        f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text class="tick" x="{_LEFT - 8}" y="{y(t) + 4:.1f}" text-anchor="end">{t:g}</text>'
        for t in ticks
    ]


def _axis_names(x_label: str, y_label: str, width: float) -> list[str]:
    right, bottom = width - _RIGHT, _HEIGHT - 2
    return [
        f'<text class="axis" x="{right}" y="{bottom}" text-anchor="end">{escape(x_label)}</text>',
        f'<text class="axis" x="0" y="10">{escape(y_label)}</text>',
    ]


def _path(points: Sequence[tuple[float, float]], x: _Scale, y: _Scale, css: str) -> str:
    places = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in points)
    return f'<path class="line {css}" d="M{places}"/>'


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most about `_MAX_POINTS` of them, the last among them."""
    every = max(1, len(points) // _MAX_POINTS)
    return [*points[:-1:every], points[-1]]


def _svg(parts: Sequence[str], label: str, width: float, *, height: float = _HEIGHT) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
