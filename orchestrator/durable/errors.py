"""The errors of the durable run; each knows the exit code of a command that ends with it.

Exit codes: 1 failed, 2 wrong usage or configuration, 3 stopped but resumable.
"""

import errno
from dataclasses import dataclass, fields

_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT})


@dataclass(eq=False)
class DurableError(Exception):
    """A durable run cannot go on; the message says why and what to do."""

    @property
    def exit_code(self) -> int:
        """What a command returns that ends with this error."""
        return 2

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        """Rebuild from the fields, so that it survives pickling on its way through Ray."""
        return type(self), tuple(getattr(self, field.name) for field in fields(self))


@dataclass(eq=False)
class StepError(DurableError):
    """A step is declared wrongly, or names what is not there."""

    step: str
    reason: str

    def __str__(self) -> str:
        return f"step {self.step!r}: {self.reason}"


@dataclass(eq=False)
class StoreError(DurableError):
    """A store cannot be read or written."""

    url: str
    path: str
    """Object within the store, or "" for the store as a whole."""

    reason: str
    error_number: int | None = None
    """``errno`` of the cause: after a full disk the run goes on, a forbidden one is wrong."""

    @property
    def exit_code(self) -> int:
        """3 for what passes, 2 otherwise."""
        return 3 if self.error_number in _PASSING else 2

    def __str__(self) -> str:
        return f"store {self.url}: {self.path + ': ' if self.path else ''}{self.reason}"


@dataclass(eq=False)
class ArtifactChangedError(DurableError):
    """A committed artifact no longer holds what its manifest says."""

    step: str
    file: str
    reason: str

    @property
    def exit_code(self) -> int:
        """1: the same command fails again."""
        return 1

    def __str__(self) -> str:
        return (
            f"artifact of step {self.step!r} was changed after its commit: {self.file}: "
            f"{self.reason}. Put the file back, or redo step {self.step}"
        )


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
