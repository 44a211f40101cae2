"""The errors of training that a caller may catch."""

from workloads.errors import WorkloadError


class TrainingError(WorkloadError):
    """A training cannot start or go on; nothing of the failed step was kept.

    Args:
        reason: What is wrong, what was expected and what to do.
        step: 1-based optimizer step it happened in; None before the first one.
    """

    def __init__(self, reason: str, step: int | None = None) -> None:
        super().__init__(reason, step)
        self.reason, self.step = reason, step

    def __str__(self) -> str:
        return self.reason if self.step is None else f"step {self.step}: {self.reason}"


class TrainingStoppedError(TrainingError):
    """A training was told to stop; it goes on from its last checkpoint when it is called again."""
