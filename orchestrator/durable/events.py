"""What a run tells while it goes: to the step's side a reporter, to the driver's an observer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from orchestrator.artifacts.manifest import Manifest
    from orchestrator.durable.failures import Failure


BY_TIME = "system/"
"""How metrics start that belong to a second since 1970 and not to a step, as MLflow has it."""


class Reporter(Protocol):
    """What a step may say while it runs; the same shape as ``workloads.reporting.Reporter``."""

    def progress(self, done: int, total: int, unit: str = "steps", note: str = "") -> None:
        """Tell that ``done`` of ``total`` units are finished."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Tell scalars that belong to optimizer step (or sample count) ``step``."""

    def message(self, text: str) -> None:
        """Tell one line for a person."""


class Observer:
    """Who listens in the driver, such as progress bars or a tracker; this one ignores everything.

    Override what you want to hear. An error raised in an observer stops the run.

    Events of a step's workers may still arrive just after ``step_finished``.
    """

    def step_reused(self, step: str, manifest: "Manifest") -> None:
        """A committed result was found."""

    def step_started(self, step: str, attempt: int, reasons: tuple[str, ...]) -> None:
        """An attempt was submitted, 1-based; ``reasons`` say why the step must run."""

    def progress(self, step: str, done: int, total: int, unit: str, note: str) -> None:
        """See ``Reporter.progress``."""

    def metrics(self, step: str, at: int, values: Mapping[str, float]) -> None:
        """See ``Reporter.metrics``."""

    def message(self, step: str, text: str) -> None:
        """See ``Reporter.message``."""

    def step_finished(self, step: str, manifest: "Manifest") -> None:
        """The result was committed."""

    def step_failed(self, step: str, failure: "Failure", retry_in_s: float | None) -> None:
        """An attempt failed; None means that it is not tried again."""


@dataclass(frozen=True, slots=True)
class Event:
    """One call of a reporter on its way to the observer."""

    step: str
    kind: Literal["progress", "metrics", "message"]
    arguments: tuple[object, ...]

    def tell(self, observer: Observer) -> None:
        """Make the call."""
        getattr(observer, self.kind)(self.step, *self.arguments)


@dataclass(frozen=True, slots=True)
class EventReporter:
    """A reporter that hands each call on as an event; picklable when ``send`` is."""

    step: str
    send: Callable[[Event], None]

    def progress(self, done: int, total: int, unit: str = "steps", note: str = "") -> None:
        """Hand it on."""
        self.send(Event(self.step, "progress", (done, total, unit, note)))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Hand them on."""
        self.send(Event(self.step, "metrics", (step, dict(values))))

    def message(self, text: str) -> None:
        """Hand it on."""
        self.send(Event(self.step, "message", (text,)))
