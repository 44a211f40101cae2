"""What a driver hears that does not own the run, or no longer."""

from dataclasses import dataclass

from orchestrator.store import DurableError


@dataclass(eq=False)
class RunOwnedError(DurableError):
    """Another living driver owns the run; nothing was touched."""

    run_id: str
    owner: str

    def __str__(self) -> str:
        return (
            f"run {self.run_id} is being driven by {self.owner}. "
            "Watch it with `gammaray status`, or stop that process first"
        )


@dataclass(eq=False)
class OwnershipLostError(DurableError):
    """This driver no longer owns the run and stopped; the run goes on elsewhere or later."""

    run_id: str
    epoch: int
    reason: str

    @property
    def exit_code(self) -> int:
        """3: the same command continues the run."""
        return 3

    def __str__(self) -> str:
        return f"run {self.run_id}: epoch {self.epoch} no longer owns it: {self.reason}"


@dataclass(eq=False)
class RunCancelledError(OwnershipLostError):
    """Somebody asked for the end of the run; finished steps stay finished."""

    def __str__(self) -> str:
        return f"run {self.run_id} was cancelled: {self.reason}"
