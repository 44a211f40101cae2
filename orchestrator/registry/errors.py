"""What goes wrong between a model and its name in the registry."""

from orchestrator.errors import PreflightError


class RegistryError(PreflightError):
    """A registered model or version cannot be used as asked; nothing has been changed.

    Args:
        name: Name in the registry.
        reason: What is wrong, what was expected and what to do.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"registered model {self.name!r}: {self.reason}"
