"""What a caller of generation can put right."""

from workloads.errors import WorkloadError


class SamplingError(WorkloadError):
    """A parameter of generation is out of its range.

    Args:
        parameter: Its name.
        reason: What was expected, and what was given.
    """

    def __init__(self, parameter: str, reason: str) -> None:
        super().__init__(parameter, reason)
        self.parameter, self.reason = parameter, reason

    def __str__(self) -> str:
        return f"{self.parameter}: {self.reason}"
