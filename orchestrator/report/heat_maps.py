"""Heat maps of the ARank profile: where in the model attention carries much, and for which task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.report.documents import Document


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """A table whose cells are the darker the higher their value."""

    title: str
    row_name: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence["Cell"]]]


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, if there is one, and its place from the lowest to the highest of the map, 0 to 1."""

    value: float | None
    share: float


def rank_maps(profile: Document) -> list[HeatMap]:
    """Layer by head, layer by task where there are several, and task by task.

    Args:
        profile: `ARankProfile.to_json`; an empty one has no maps, and one that an earlier version
            wrote lacks the last.
    """
    per_head: Sequence[Sequence[float]] = profile.get("per_head", [])
    per_task: Mapping[str, Sequence[float]] = profile.get("per_task", {})
    heads = [str(head) for head in range(len(per_head[0]))] if per_head else []
    maps = []
    if heads:
        maps.append(_by_layer("Mean rank by head", heads, per_head))
    if len(per_task) > 1:
        by_layer = list(zip(*per_task.values(), strict=True))
        maps.append(_by_layer("Mean rank by task", list(per_task), by_layer))
    if correlations := profile.get("task_correlations"):
        maps.append(_task_by_task(correlations))
    return maps


def _by_layer(title: str, columns: Sequence[str], values: Sequence[Sequence[float]]) -> HeatMap:
    names = [str(layer) for layer in range(len(values))]
    return HeatMap(title=title, row_name="Layer", columns=columns, rows=_shaded(names, values))


def _task_by_task(correlations: Mapping[str, Mapping[str, float | None]]) -> HeatMap:
    names = list(correlations)
    values = [[correlations[a].get(b, 1.0) for b in names] for a in names]
    return HeatMap(
        title="Correlation of the layer orders of two tasks",
        row_name="Task",
        columns=names,
        rows=_shaded(names, values),
    )


def _shaded(
    names: Sequence[str], values: Sequence[Sequence[float | None]]
) -> list[tuple[str, list[Cell]]]:
    known = [value for row in values for value in row if value is not None]
    low, span = min(known), (max(known) - min(known)) or 1.0
    return [
        (name, [Cell(value, 0.0 if value is None else (value - low) / span) for value in row])
        for name, row in zip(names, values, strict=True)
    ]
