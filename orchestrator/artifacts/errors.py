"""The error of a result that is no longer what was committed."""

from dataclasses import dataclass

from orchestrator.store import DurableError


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
