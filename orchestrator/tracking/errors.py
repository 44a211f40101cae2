"""What goes wrong between a run and MLflow."""

from orchestrator.errors import PreflightError


class TrackingError(PreflightError):
    """MLflow cannot be used as asked; no training has been started.

    Args:
        uri: The tracking URI, without user name and password.
        reason: What is wrong, what was expected and what to do.
    """

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(uri, reason)
        self.uri, self.reason = uri, reason

    def __str__(self) -> str:
        return f"MLflow at {self.uri}: {self.reason}"


class TrackingAwayError(TrackingError):
    """The server does not answer."""

    @property
    def exit_code(self) -> int:
        """3: it may at another time, and the same command continues the run."""
        return 3
