"""The errors of the durable run; each knows the exit code of a command that ends with it."""

from dataclasses import dataclass

from orchestrator.store.errors import DurableError


@dataclass(eq=False)
class StepError(DurableError):
    """A step is declared wrongly, or names what is not there."""

    step: str
    reason: str

    def __str__(self) -> str:
        return f"step {self.step!r}: {self.reason}"


@dataclass(eq=False)
class ClusterError(DurableError):
    """The machines that there are cannot run what is declared; no step was started."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(eq=False)
class TimeIsUpError(DurableError):
    """The run was to stop at this time; what is committed or checkpointed is there."""

    run_id: str

    @property
    def exit_code(self) -> int:
        """3: it can be resumed."""
        return 3

    def __str__(self) -> str:
        return f"the time is up; continue with: gammaray resume {self.run_id}"


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
