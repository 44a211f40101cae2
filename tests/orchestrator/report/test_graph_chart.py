import xml.etree.ElementTree as ET

import pytest

from orchestrator.report.graph import Node
from orchestrator.report.graph_chart import duration, graph_svg

SVG = "{http://www.w3.org/2000/svg}"
NODES = [
    Node(name="data", state="reused", inputs=(), seconds=3.21),
    Node(name="align", state="succeeded", inputs=("data",), seconds=75.0),
    Node(name="judge <me>", state="failed", inputs=("data",)),
    Node(name="report", state="waiting", inputs=("data", "align", "judge <me>")),
]


def boxes(drawing: str) -> dict[str, tuple[str, float, float]]:
    """Class, left and top of every box, by the name that it shows."""
    found = {}
    for group in ET.fromstring(drawing).iter(f"{SVG}g"):
        box, name = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        assert box is not None
        assert name is not None
        found[str(name.text)] = (
            group.attrib["class"],
            float(box.attrib["x"]),
            float(box.attrib["y"]),
        )
    return found


def test_steps_stand_to_the_right_of_all_that_they_take() -> None:
    left = {name: x for name, (_, x, _) in boxes(graph_svg(NODES)).items()}
    assert left["data"] < left["align"] == left["judge <me>"] < left["report"]


def test_no_two_boxes_lie_on_each_other() -> None:
    places = [(x, y) for _, x, y in boxes(graph_svg(NODES)).values()]
    assert len(set(places)) == len(NODES)


def test_colours_tell_what_was_reused_computed_and_failed() -> None:
    css = {name: css for name, (css, _, _) in boxes(graph_svg(NODES)).items()}
    assert css == {
        "data": "step reused",
        "align": "step computed",
        "judge <me>": "step failed",
        "report": "step open",
    }


def test_every_input_is_a_line_and_far_ones_are_faint() -> None:
    paths = [path.attrib["class"] for path in ET.fromstring(graph_svg(NODES)).iter(f"{SVG}path")]
    assert sorted(paths) == ["edge"] * 4 + ["edge far"]


def test_a_box_tells_state_and_time() -> None:
    drawing = graph_svg(NODES)
    assert "reused · 3.2 s" in drawing
    assert "computed · 75 s" in drawing


def test_the_same_run_is_drawn_the_same() -> None:
    assert graph_svg(NODES) == graph_svg(list(NODES))


def test_a_run_without_steps_is_an_empty_drawing() -> None:
    assert boxes(graph_svg([])) == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (100.0, "2 min"),
        (5400.0, "90 min"),
        (7200.0, "2.0 h"),
    ],
)
def test_times_fit_a_small_box(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
