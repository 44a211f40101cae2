import xml.etree.ElementTree as ET

import pytest

from orchestrator.report.charts import (
    HALF,
    Bar,
    Series,
    bar_chart,
    dumbbells,
    line_chart,
    losses,
    nice_ticks,
    smoothed,
)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.0, 31.2, [0.0, 10.0, 20.0, 30.0, 40.0]),
        (0.83, 0.97, [0.8, 0.85, 0.9, 0.95, 1.0]),
        (5.0, 5.0, [5.0, 6.0]),
    ],
)
def test_ticks_are_round_and_cover_the_values(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == ticks


def test_bars_that_are_nearly_alike_are_drawn_from_a_start_that_is_told() -> None:
    assert "axis starts at 70" in bar_chart(bars([74.5, 71.9]), y_label="ARank", x_label="layer")
    assert "axis starts" not in bar_chart(bars([74.5, 20.0]), y_label="ARank", x_label="layer")


def test_a_short_line_is_not_smoothed() -> None:
    assert smoothed([(1, 4.0), (2, 2.0)]) == [(1, 4.0), (2, 2.0)]


def test_a_running_mean_starts_at_the_first_value_and_keeps_a_constant() -> None:
    points = [(float(step), 4.0) for step in range(100)]
    assert [y for _, y in smoothed(points)] == pytest.approx([4.0] * 100)


def test_points_without_the_metric_are_left_out() -> None:
    history = {"points": [{"step": 1, "loss": 2.0}, {"step": 2}]}
    assert losses(history, "loss") == [(1.0, 2.0)]


def bars(values: list[float]) -> list[Bar]:
    return [
        Bar(name=str(n), value=value, error=0.1, css="mod", note="why <it>")
        for n, value in enumerate(values)
    ]


CHARTS = [
    bar_chart(bars([3.0, 2.0]), y_label="ARank", x_label="layer"),
    bar_chart(bars([0.0]), y_label="a & b", x_label="layer"),
    bar_chart([], y_label="ARank", x_label="layer"),
    line_chart(
        [Series(name="a", css="mod", points=[(float(n), 1.0 / n) for n in range(1, 2000)])],
        y_label="loss",
        x_label="step",
        width=HALF,
    ),
    line_chart([Series(name="a", css="a", points=[(1.0, 2.0)])], y_label="", x_label="", width=9.0),
    line_chart([Series(name="a", css="a", points=[])], y_label="", x_label="", width=HALF),
    dumbbells([("<kind>", 0.9, 0.8)], width=HALF),
    dumbbells([], width=HALF),
]


@pytest.mark.parametrize("chart", CHARTS)
def test_every_chart_is_a_drawing_without_gaps(chart: str) -> None:
    drawing = ET.fromstring(chart)
    assert drawing.tag == "svg"
    assert "nan" not in chart
    assert "inf" not in chart


def test_a_long_line_is_drawn_with_few_points() -> None:
    assert len(CHARTS[3]) < 30_000
