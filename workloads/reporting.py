"""How work tells the outside what happened, without knowing who listens."""

from collections.abc import Mapping
from typing import Protocol


class Reporter(Protocol):
    """What long work says while it runs; the orchestrator supplies one over Ray."""

    def progress(self, done: int, total: int, unit: str = "steps", note: str = "") -> None:
        """Tell that ``done`` of ``total`` units are finished; ``note`` is a short status."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Tell scalars that belong to optimizer step (or sample count) ``step``."""

    def message(self, text: str) -> None:
        """Tell one line for a person: a warning, or a decision with its reason."""


class SilentReporter:
    """A reporter for callers who do not listen."""

    def progress(self, done: int, total: int, unit: str = "steps", note: str = "") -> None:
        """Ignore it."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Ignore them."""

    def message(self, text: str) -> None:
        """Ignore it."""
