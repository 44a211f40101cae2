"""A profile as a picture: one cell per layer and head, or per layer and task."""

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from workloads.arank.profile import ARankProfile

_CELL, _LEFT, _TOP = 26, 120, 40
_LOW, _HIGH = (240, 244, 250), (11, 64, 122)


def heat_map_svg(profile: ARankProfile, converted: Sequence[int] = ()) -> str:
    """Draw mean ranks, layers down and heads across, darker for higher.

    Written by hand rather than by a plotting library, whose bytes change with its fonts and
    version and would change the artifact's digest with them.

    Args:
        profile: The measurement.
        converted: Layers to mark as chosen for conversion.

    Returns:
        A complete SVG document in which every cell tells its value on hover.
    """
    ranks = profile.per_head
    low, high = float(ranks.min()), float(ranks.max())
    layers, heads = ranks.shape
    width, height = _LEFT + heads * _CELL + 10, _TOP + layers * _CELL + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<text x="{_LEFT}" y="16">Mean rank per head, {low:.1f} (light) to {high:.1f}</text>',
    ]
    for layer in range(layers):
        label = f"layer {layer}" + (" · MoD" if layer in converted else "")
        y = _TOP + layer * _CELL
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 17}" text-anchor="end">{label}</text>')
        parts.extend(
            _cell(layer, head, float(ranks[layer, head]), (low, high)) for head in range(heads)
        )
    return "\n".join([*parts, "</svg>\n"])


def heat_map_png(profile: ARankProfile, by: Literal["head", "task"] = "head") -> bytes:
    """Draw mean ranks, layers down and heads or tasks across, with the value in every cell.

    Returns:
        A PNG file.
    """
    if by == "head":
        values = profile.per_head
        names = [str(head) for head in range(values.shape[1])]
    else:
        values = np.stack(list(profile.per_task.values()), axis=1)
        names = list(profile.per_task)
    width = max(44, *(8 * len(name) for name in names))
    layers, columns = values.shape
    picture = Image.new("RGB", (_LEFT + columns * width + 10, _TOP + layers * _CELL + 10), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((4, 4), f"Mean rank, layer by {by}", fill="black")
    for column, name in enumerate(names):
        draw.text((_LEFT + column * width + 4, _TOP - 16), name, fill="black")
    span = float(values.min()), float(values.max())
    for layer in range(layers):
        top = _TOP + layer * _CELL
        draw.text((4, top + 7), f"layer {layer}", fill="black")
        for column in range(columns):
            value, left = float(values[layer, column]), _LEFT + column * width
            corners = (left, top, left + width - 2, top + _CELL - 2)
            draw.rectangle(corners, fill=_colour(value, span))
            ink = "white" if _depth(value, span) > 0.5 else "black"
            draw.text((left + 4, top + 7), f"{value:.1f}", fill=ink)
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def _depth(rank: float, span: tuple[float, float]) -> float:
    low, high = span
    return 0.0 if high == low else (rank - low) / (high - low)


def _colour(rank: float, span: tuple[float, float]) -> tuple[int, int, int]:
    depth = _depth(rank, span)
    red, green, blue = (round(a + (b - a) * depth) for a, b in zip(_LOW, _HIGH, strict=True))
    return red, green, blue


def _cell(layer: int, head: int, rank: float, span: tuple[float, float]) -> str:
    colour = ",".join(map(str, _colour(rank, span)))
    return (
        f'<rect x="{_LEFT + head * _CELL}" y="{_TOP + layer * _CELL}" width="{_CELL - 1}" '
        f'height="{_CELL - 1}" fill="rgb({colour})">'
        f"<title>layer {layer}, head {head}: {rank:.2f}</title></rect>"
    )
