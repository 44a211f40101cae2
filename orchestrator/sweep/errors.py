"""What goes wrong in a sweep, besides what goes wrong in its trials."""

from dataclasses import dataclass

from orchestrator.durable import DurableError


@dataclass(eq=False)
class SweepError(DurableError):
    """A sweep as a whole cannot go on, or has come to nothing."""

    reason: str

    @property
    def exit_code(self) -> int:
        """1: the same sweep would end in the same way."""
        return 1

    def __str__(self) -> str:
        return self.reason


class NothingFeasibleError(SweepError):
    """No values of the space satisfy the constraints, as the closed form has it; nothing ran."""


class AllTrialsFailedError(SweepError):
    """Not one trial came to its end; the same command tries them again."""


class MetricMissingError(SweepError):
    """A trial ended without a figure that the sweep compares or bounds."""


class NoWinnerError(SweepError):
    """No trial satisfies the constraints, so that none can be trained again."""


class TrialLostError(SweepError):
    """Trials were stopped from outside more often than they may be."""

    @property
    def exit_code(self) -> int:
        """3: the same command goes on with them."""
        return 3
