"""What can go wrong while a model is evaluated."""

from workloads.errors import WorkloadError


class EvaluationError(WorkloadError):
    """A model or its answers cannot be evaluated as asked."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot evaluate: {self.reason}"
