"""A scatter plot as inline SVG, whose points say what they are when one looks at them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from orchestrator.report.charts import WIDE, nice_ticks

_HEIGHT = 420.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 24.0, 32.0, 40.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Dot:
    """One point: what it is called, and what is shown of it."""

    name: str
    x: float
    y: float
    css: str
    facts: Mapping[str, str]
    """Shown beside the plot while the point is looked at."""


def scatter(dots: Sequence[Dot], *, x_label: str, y_label: str, line: Sequence[int] = ()) -> str:
    """Draw points of shares, in per cent; ``line`` joins those with these indices.

    Each point can be reached by keyboard and carries its facts as JSON in ``data-facts``.
    """
    x_ticks = nice_ticks(min(dot.x for dot in dots) * 100, max(dot.x for dot in dots) * 100)
    y_ticks = nice_ticks(min(dot.y for dot in dots) * 100, max(dot.y for dot in dots) * 100)

    def x(share: float) -> float:
        return _place(share * 100, x_ticks, _LEFT, WIDE - _RIGHT)

    def y(share: float) -> float:
        return _place(share * 100, y_ticks, _HEIGHT - _BOTTOM, _TOP)

    parts = [*_columns(x_ticks), *_rows(y_ticks), *_names(x_label, y_label)]
    if len(line) > 1:
        path = "L".join(f"{x(dots[i].x):.1f} {y(dots[i].y):.1f}" for i in line)
        parts.append(f'<path class="line mod front" d="M{path}"/>')
    parts += [_dot(dot, x(dot.x), y(dot.y)) for dot in dots]
    return (
        f'<svg class="chart scatter" viewBox="0 0 {WIDE:g} {_HEIGHT:g}" role="group" '
        f'aria-label="{escape(y_label)} by {escape(x_label)}">{"".join(parts)}</svg>'
    )


def _dot(dot: Dot, x: float, y: float) -> str:
    facts = escape(json.dumps(dict(dot.facts), ensure_ascii=False), quote=True)
    told = escape("\n".join([dot.name, *(f"{key}: {text}" for key, text in dot.facts.items())]))
    radius = 8 if "winner" in dot.css else 6
    return (
        f'<circle class="trial {escape(dot.css)}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}" '
        f'tabindex="0" data-name="{escape(dot.name, quote=True)}" data-facts="{facts}">'
        f"<title>{told}</title></circle>"
    )


def _place(value: float, ticks: Sequence[float], start: float, end: float) -> float:
    return start + (value - ticks[0]) / ((ticks[-1] - ticks[0]) or 1.0) * (end - start)


def _columns(ticks: Sequence[float]) -> list[str]:
    low, bottom = _HEIGHT - _BOTTOM, _HEIGHT - _BOTTOM + 18
    places = [(t, _place(t, ticks, _LEFT, WIDE - _RIGHT)) for t in ticks]
    return [
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{low}"/>'
        f'<text class="tick" x="{x:.1f}" y="{bottom}" text-anchor="middle">{t:g}</text>'
        for t, x in places
    ]


def _rows(ticks: Sequence[float]) -> list[str]:
    places = [(t, _place(t, ticks, _HEIGHT - _BOTTOM, _TOP)) for t in ticks]
    return [
        f'<line class="grid" x1="{_LEFT}" x2="{WIDE - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{t:g}</text>'
        for t, y in places
    ]


def _names(x_label: str, y_label: str) -> list[str]:
    right, bottom = WIDE - _RIGHT, _HEIGHT - 4
    return [
        f'<text class="axis" x="{right}" y="{bottom}" text-anchor="end">{escape(x_label)}</text>',
        f'<text class="axis" x="0" y="12">{escape(y_label)}</text>',
    ]
