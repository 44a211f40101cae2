"""A profile as a picture: one cell per layer and head, equal bytes for equal ranks."""

from collections.abc import Sequence

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


def _cell(layer: int, head: int, rank: float, span: tuple[float, float]) -> str:
    low, high = span
    depth = 0.0 if high == low else (rank - low) / (high - low)
    colour = ",".join(str(round(a + (b - a) * depth)) for a, b in zip(_LOW, _HIGH, strict=True))
    return (
        f'<rect x="{_LEFT + head * _CELL}" y="{_TOP + layer * _CELL}" width="{_CELL - 1}" '
        f'height="{_CELL - 1}" fill="rgb({colour})">'
        f"<title>layer {layer}, head {head}: {rank:.2f}</title></rect>"
    )
