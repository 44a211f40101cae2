"""What a person sees while a run goes: one bar per step on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from orchestrator.durable import Observer

if TYPE_CHECKING:
    from orchestrator.artifacts.manifest import Manifest
    from orchestrator.durable.failures import Failure


class ProgressBars(Observer):
    """One bar per step with an estimate of the time left, for a terminal."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]:<9}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "ProgressBars":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def step_reused(self, step: str, manifest: "Manifest") -> None:
        """Show a full bar at once."""
        self._bars.update(self._task(step), total=1, completed=1, note="reused")

    def step_started(self, step: str, attempt: int, reasons: tuple[str, ...]) -> None:
        """Show the bar, and why the step runs."""
        note = "; ".join(reasons) if attempt == 1 else f"attempt {attempt}"
        self._bars.update(self._task(step), note=note)
        self._bars.start_task(self._task(step))

    def progress(self, step: str, done: int, total: int, unit: str, note: str) -> None:
        """Move the bar."""
        self._bars.update(self._task(step), completed=done, total=total, unit=unit, note=note)

    def message(self, step: str, text: str) -> None:
        """Print above the bars."""
        self._bars.console.print(f"{step}: {text}", highlight=False, markup=False)

    def step_finished(self, step: str, manifest: "Manifest") -> None:
        """Fill the bar."""
        task = self._task(step)
        total = self._bars.tasks[self._bars.task_ids.index(task)].total or 1
        self._bars.update(task, total=total, completed=total, note="done")
        self._bars.stop_task(task)

    def step_failed(self, step: str, failure: "Failure", retry_in_s: float | None) -> None:
        """Say what went wrong and what happens next."""
        self.message(step, _failed(failure, retry_in_s))

    def _task(self, step: str) -> TaskID:
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(step, total=None, start=False, unit="", note="")
        return self._tasks[step]


class ProgressLines(Observer):
    """One line when something starts or ends and one per interval between, for a log file.

    Args:
        console: Where to print.
        interval_s: Seconds between two lines of the same step.
        clock: Seconds on a monotonic clock.
    """

    def __init__(
        self,
        console: Console,
        interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._interval_s, self._clock = console, interval_s, clock
        self._started: dict[str, float] = {}
        self._spoke: dict[str, float] = {}

    def __enter__(self) -> "ProgressLines":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def step_reused(self, step: str, manifest: "Manifest") -> None:
        """Say so."""
        self._say(step, "reused")

    def step_started(self, step: str, attempt: int, reasons: tuple[str, ...]) -> None:
        """Say so, and why."""
        self._started[step] = self._spoke[step] = self._clock()
        again = f" (attempt {attempt})" if attempt > 1 else ""
        self._say(step, f"started{again}: {'; '.join(reasons)}")

    def progress(self, step: str, done: int, total: int, unit: str, note: str) -> None:
        """Say how far it is and how long it may still take, once per interval."""
        now = self._clock()
        if now - self._spoke.get(step, now) < self._interval_s or not done:
            return
        self._spoke[step] = now
        left = (now - self._started[step]) / done * (total - done)
        self._say(step, f"{done}/{total} {unit}, about {left:.0f} s left {note}".rstrip())

    def message(self, step: str, text: str) -> None:
        """Pass it on."""
        self._say(step, text)

    def step_finished(self, step: str, manifest: "Manifest") -> None:
        """Say how long it took."""
        self._say(step, f"done in {self._clock() - self._started[step]:.1f} s")

    def step_failed(self, step: str, failure: "Failure", retry_in_s: float | None) -> None:
        """Say what went wrong and what happens next."""
        self._say(step, _failed(failure, retry_in_s))

    def _say(self, step: str, text: str) -> None:
        self._console.print(f"{step}: {text}", highlight=False, markup=False, soft_wrap=True)


def _failed(failure: "Failure", retry_in_s: float | None) -> str:
    what = f"failed ({failure.kind}): {failure.error_type}: {failure.message}"
    return what if retry_in_s is None else f"{what}; trying again in {retry_in_s:.0f} s"
