import io
from types import SimpleNamespace
from typing import cast

from rich.console import Console

from orchestrator.durable import Failure, Manifest
from orchestrator.progress import ProgressBars, ProgressLines

MANIFEST = cast(Manifest, None)
FAILURE = cast(
    Failure, SimpleNamespace(kind="system", error_type="Lost", message="a worker is gone")
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_tell_once_per_interval_and_estimate_the_time_left() -> None:
    said, clock = io.StringIO(), Clock()
    lines = ProgressLines(Console(file=said, width=200), interval_s=10.0, clock=clock)
    lines.step_started("align", 1, ("align: no result yet",))
    clock.now = 5.0
    lines.progress("align", 10, 100, "steps", "")
    clock.now = 20.0
    lines.progress("align", 50, 100, "steps", "loss 0.1")
    lines.step_finished("align", MANIFEST)
    assert said.getvalue().splitlines() == [
        "align: started: align: no result yet",
        "align: 50/100 steps, about 20 s left loss 0.1",
        "align: done in 20.0 s",
    ]


def test_lines_tell_a_failure_and_when_it_is_tried_again() -> None:
    said = io.StringIO()
    ProgressLines(Console(file=said, width=200)).step_failed("align", FAILURE, 2.0)
    assert (
        said.getvalue() == "align: failed (system): Lost: a worker is gone; trying again in 2 s\n"
    )


def test_bars_show_every_step_with_what_became_of_it() -> None:
    said = io.StringIO()
    console = Console(file=said, width=160, force_terminal=True)
    with ProgressBars(console) as bars:
        bars.step_reused("data", MANIFEST)
        bars.step_started("align", 1, ())
        bars.progress("align", 3, 9, "steps", "loss 0.5")
        bars.message("align", "something to know")
        bars.step_finished("align", MANIFEST)
    shown = said.getvalue()
    assert "reused" in shown
    assert "align: something to know" in shown
    assert "9/9" in shown
