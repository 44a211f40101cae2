"""The errors of the durable run; each knows the exit code of a command that ends with it.

Exit codes: 1 failed, 2 wrong usage or configuration, 3 stopped but resumable. Every class
hands its fields to ``super().__init__`` so that it survives pickling on its way through Ray.
"""

import errno

_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT})


class DurableError(Exception):
    """A durable run cannot go on; the message says why and what to do."""

    exit_code: int = 1


class StepError(DurableError):
    """A step is declared wrongly, so no run was started."""

    exit_code = 2

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(step, reason)
        self.step, self.reason = step, reason

    def __str__(self) -> str:
        return f"step {self.step!r}: {self.reason}"


class StoreError(DurableError):
    """A store cannot be read or written.

    Args:
        url: Store, without credentials.
        path: Object within it, or "" for the store as a whole.
        reason: What is wrong and what to do.
        error_number: ``errno`` of the cause. A full disk is a stop after which the run
            goes on (exit code 3), a forbidden one is a wrong configuration (2).
    """

    def __init__(self, url: str, path: str, reason: str, error_number: int | None = None) -> None:
        super().__init__(url, path, reason, error_number)
        self.url, self.path, self.reason, self.error_number = url, path, reason, error_number
        self.exit_code = 3 if error_number in _PASSING else 2

    def __str__(self) -> str:
        where = f"{self.url}: {self.path}" if self.path else self.url
        return f"store {where}: {self.reason}"


class ArtifactChangedError(DurableError):
    """A committed artifact no longer holds what its manifest says."""

    def __init__(self, step: str, file: str, reason: str) -> None:
        super().__init__(step, file, reason)
        self.step, self.file, self.reason = step, file, reason

    def __str__(self) -> str:
        return (
            f"artifact of step {self.step!r} was changed after its commit: {self.file}: "
            f"{self.reason}. Put the file back, or redo the step ({self.step})"
        )


class RunOwnedError(DurableError):
    """Another living driver owns the run; nothing was touched."""

    exit_code = 2

    def __init__(self, run_id: str, owner: str) -> None:
        super().__init__(run_id, owner)
        self.run_id, self.owner = run_id, owner

    def __str__(self) -> str:
        return (
            f"run {self.run_id} is being driven by {self.owner}. "
            "Watch it with `gammaray status`, or stop that process first"
        )


class OwnershipLostError(DurableError):
    """Another driver took the run over, so this one stopped; the run goes on there."""

    exit_code = 3

    def __init__(self, run_id: str, epoch: int, reason: str) -> None:
        super().__init__(run_id, epoch, reason)
        self.run_id, self.epoch, self.reason = run_id, epoch, reason

    def __str__(self) -> str:
        return f"run {self.run_id}: epoch {self.epoch} no longer owns it: {self.reason}"


class ResourcesError(DurableError):
    """A step needs more than there is."""

    exit_code = 2

    def __init__(self, step: str, needed: str, available: str) -> None:
        super().__init__(step, needed, available)
        self.step, self.needed, self.available = step, needed, available

    def __str__(self) -> str:
        return (
            f"step {self.step!r} needs {self.needed}, there are {self.available}: "
            "use fewer workers, or add machines"
        )


class StoreNotSharedError(DurableError):
    """A directory of one machine cannot hold a run of several machines."""

    exit_code = 2

    def __init__(self, url: str, nodes: int) -> None:
        super().__init__(url, nodes)
        self.url, self.nodes = url, nodes

    def __str__(self) -> str:
        return (
            f"store {self.url} is a directory of this machine, but the cluster has {self.nodes} "
            "nodes: use a shared store such as s3://bucket/prefix, or, if every node mounts this "
            "directory, say so with file:///directory?shared=true"
        )


class StepFailedError(DurableError):
    """A step failed for good; what it raised is the ``__cause__`` when it could travel.

    Args:
        step: Name of the step.
        kind: Class of the last failure: system, preemption, transient or permanent.
        error_type: Class name of what the step raised.
        message: What it said.
        traceback_text: Where, as printed in the process that ran the step.
    """

    def __init__(
        self, step: str, kind: str, error_type: str, message: str, traceback_text: str = ""
    ) -> None:
        super().__init__(step, kind, error_type, message, traceback_text)
        self.step, self.kind, self.error_type = step, kind, error_type
        self.message, self.traceback_text = message, traceback_text
        self.exit_code = 1 if kind == "permanent" else 3

    def __str__(self) -> str:
        return f"step {self.step!r} failed ({self.kind}): {self.error_type}: {self.message}"
