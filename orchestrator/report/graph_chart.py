"""The graph of a run as SVG: steps as boxes from left to right, colours as CSS classes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from orchestrator.report.graph import Node

STYLE = Path(__file__).with_name("templates") / "graph.css"
"""Rules for the classes of the drawing; without a page's theme around it, they have colours too."""

_BOX_WIDTH, _BOX_HEIGHT = 116.0, 42.0
_GAP_X, _GAP_Y = 34.0, 20.0
_MARGIN = 8.0

_KINDS = {
    "reused": "reused",
    "succeeded": "computed",
    "caught": "failed",
    "failed": "failed",
    "cancelled": "failed",
}
"""State of a step to the class of its box; all others are still open."""

_SAID = {"succeeded": "computed"}


@dataclass(frozen=True, slots=True)
class _Box:
    """Top left corner of a step's box."""

    x: float
    y: float

    @property
    def middle(self) -> float:
        return self.y + _BOX_HEIGHT / 2


def graph_svg(nodes: Sequence[Node], *, style: str = "") -> str:
    """Draw a run's graph; the same nodes give the same drawing.

    Args:
        nodes: Steps, inputs first.
        style: CSS to carry along, for a drawing that stands alone.
    """
    columns = _columns(nodes)
    boxes, width, height = _place(columns)
    lines = [
        _line(source, node.name, boxes)
        for node in nodes
        for source in node.inputs
        if source in boxes
    ]
    parts = [*lines, *(_drawn(node, boxes[node.name]) for node in nodes)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="graph" viewBox="0 0 {width:g} {height:g}" '
        f'role="img" aria-label="Steps of the run">'
        f"{f'<style>{style}</style>' if style else ''}{''.join(parts)}</svg>"
    )


def duration(seconds: float | None) -> str:
    """A time for a small box, such as ``0.4 s``, ``12 s``, ``3 min`` or ``1.5 h``; "" for None."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def _columns(nodes: Sequence[Node]) -> list[list[Node]]:
    """By the longest way from a step without inputs; each step near the height of its inputs."""
    depth: dict[str, int] = {}
    columns: dict[int, list[Node]] = defaultdict(list)
    for node in nodes:
        depth[node.name] = 1 + max((depth.get(source, -1) for source in node.inputs), default=-1)
        columns[depth[node.name]].append(node)
    rows: dict[str, float] = {}
    for number in sorted(columns):
        columns[number].sort(key=lambda node: _mean([rows.get(name, 0.0) for name in node.inputs]))
        middle = (len(columns[number]) - 1) / 2
        rows |= {node.name: row - middle for row, node in enumerate(columns[number])}
    return [columns[number] for number in sorted(columns)]


def _place(columns: Sequence[Sequence[Node]]) -> tuple[dict[str, _Box], float, float]:
    """Boxes by step, and the size of the drawing; every column is centred."""
    tallest = max((len(column) for column in columns), default=1)
    height = 2 * _MARGIN + tallest * (_BOX_HEIGHT + _GAP_Y) - _GAP_Y
    width = 2 * _MARGIN + max(len(columns), 1) * (_BOX_WIDTH + _GAP_X) - _GAP_X
    boxes = {}
    for number, column in enumerate(columns):
        top = (height - len(column) * (_BOX_HEIGHT + _GAP_Y) + _GAP_Y) / 2
        for row, node in enumerate(column):
            x = _MARGIN + number * (_BOX_WIDTH + _GAP_X)
            boxes[node.name] = _Box(x, top + row * (_BOX_HEIGHT + _GAP_Y))
    return boxes, width, height


def _line(source: str, target: str, boxes: dict[str, _Box]) -> str:
    start, end = boxes[source], boxes[target]
    x, bend = start.x + _BOX_WIDTH, _GAP_X * 0.6
    css = "edge" if end.x - x <= _GAP_X else "edge far"
    path = (
        f"M{x:.1f} {start.middle:.1f}C{x + bend:.1f} {start.middle:.1f} "
        f"{end.x - bend:.1f} {end.middle:.1f} {end.x:.1f} {end.middle:.1f}"
    )
    title = f"{escape(target)} takes {escape(source)}"
    return f'<path class="{css}" d="{path}"><title>{title}</title></path>'


def _drawn(node: Node, box: _Box) -> str:
    css = _KINDS.get(node.state, "open")
    state = _SAID.get(node.state, node.state)
    below = " \N{MIDDLE DOT} ".join(filter(None, (state, duration(node.seconds))))
    middle = box.x + _BOX_WIDTH / 2
    return (
        f'<g class="step {css}"><title>{escape(node.name)}: {escape(below)}</title>'
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{_BOX_WIDTH:g}" height="{_BOX_HEIGHT:g}" '
        f'rx="8"/><text class="name" x="{middle:.1f}" y="{box.y + 18:.1f}" text-anchor="middle">'
        f'{escape(_short(node.name))}</text><text class="state" x="{middle:.1f}" '
        f'y="{box.y + 33:.1f}" text-anchor="middle">{escape(below)}</text></g>'
    )


def _short(name: str) -> str:
    return name if len(name) <= 17 else f"{name[:16]}\N{HORIZONTAL ELLIPSIS}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
