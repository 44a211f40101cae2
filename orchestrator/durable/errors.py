"""The errors of the durable run; each knows the exit code of a command that ends with it."""

from dataclasses import dataclass

from orchestrator.artifacts.errors import ArtifactChangedError
from orchestrator.store.errors import DurableError, StoreError

__all__ = [
    "ArtifactChangedError",
    "ClusterError",
    "DurableError",
    "OwnershipLostError",
    "RunCancelledError",
    "RunOwnedError",
    "StepError",
    "StepFailedError",
    "StoreError",
]


@dataclass(eq=False)
class StepError(DurableError):
    """A step is declared wrongly, or names what is not there."""

    step: str
    reason: str

    def __str__(self) -> str:
        return f"step {self.step!r}: {self.reason}"


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


@dataclass(eq=False)
class ClusterError(DurableError):
    """The machines that there are cannot run what is declared; no step was started."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(eq=False)
class StepFailedError(DurableError):
    """A step failed for good; what it raised is the ``__cause__`` when it could travel."""

    step: str
    kind: str
    """Class of the last failure: system, preemption, transient or permanent."""

    error_type: str
    message: str
    traceback_text: str = ""
    """As printed in the process that ran the step."""

    @property
    def exit_code(self) -> int:
        """1 if it would fail the same way again, 3 if another try may do."""
        return 1 if self.kind == "permanent" else 3

    def __str__(self) -> str:
        return f"step {self.step!r} failed ({self.kind}): {self.error_type}: {self.message}"
