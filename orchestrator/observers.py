"""Several observers as one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from orchestrator.durable import Observer
from orchestrator.secrets import without_credentials

if TYPE_CHECKING:
    from orchestrator.artifacts.manifest import Manifest
    from orchestrator.durable.failures import Failure


class Observers(Observer):
    """Tells every event to each of its members, in order."""

    def __init__(self, *members: Observer) -> None:
        self._members = members

    def step_reused(self, step: str, manifest: "Manifest") -> None:
        """Tell all."""
        for member in self._members:
            member.step_reused(step, manifest)

    def step_started(self, step: str, attempt: int, reasons: tuple[str, ...]) -> None:
        """Tell all."""
        for member in self._members:
            member.step_started(step, attempt, reasons)

    def progress(self, step: str, done: int, total: int, unit: str, note: str) -> None:
        """Tell all."""
        for member in self._members:
            member.progress(step, done, total, unit, note)

    def metrics(self, step: str, at: int, values: Mapping[str, float]) -> None:
        """Tell all."""
        for member in self._members:
            member.metrics(step, at, values)

    def message(self, step: str, text: str) -> None:
        """Tell all, without the credentials of an address that a library may have put into it."""
        for member in self._members:
            member.message(step, without_credentials(text))

    def step_finished(self, step: str, manifest: "Manifest") -> None:
        """Tell all."""
        for member in self._members:
            member.step_finished(step, manifest)

    def step_failed(self, step: str, failure: "Failure", retry_in_s: float | None) -> None:
        """Tell all."""
        for member in self._members:
            member.step_failed(step, failure, retry_in_s)
