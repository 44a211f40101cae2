"""What went wrong, of which class it is, and whether that is worth another try."""

import pickle
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from orchestrator.durable.errors import StepFailedError
from orchestrator.durable.step import Retry
from orchestrator.secrets import without_credentials
from orchestrator.store import StoreError
from orchestrator.store.errors import FULL, PASSING

_MAX_BACKOFF_S = 60.0


class FailureKind(StrEnum):
    """Class of a failure; each that may pass has its budget in ``Retry``, under the same name."""

    SYSTEM = "system"
    """A worker, node, object or disk was lost or full: another machine may do."""

    PREEMPTION = "preemption"
    """The machine was taken away."""

    TRANSIENT = "transient"
    """Something outside did not answer: it may later."""

    PERMANENT = "permanent"
    """Anything else: a wrong input or a bug fails the same way again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """How one attempt ended that committed nothing."""

    kind: FailureKind
    error_type: str
    message: str
    traceback_text: str = ""
    error_types: tuple[str, ...] = ()
    """Names of the exception's class and of those above it."""

    error: Exception | None = field(default=None, compare=False)
    """What was raised, if it can travel between processes."""

    @classmethod
    def of(cls, error: Exception, kind: FailureKind | None = None) -> "Failure":
        """Describe ``error`` where it was caught."""
        return cls(
            kind=kind or classify(error),
            error_type=type(error).__name__,
            message=without_credentials(str(error)),
            traceback_text=without_credentials("".join(traceback.format_exception(error))),
            error_types=tuple(kind.__name__ for kind in type(error).__mro__),
            error=error if _travels(error) else None,
        )

    def under(self, retry: Retry) -> "Failure":
        """The same failure, transient if the step declares its error to be so."""
        if self.kind is FailureKind.PERMANENT and set(retry.errors) & set(self.error_types):
            return replace(self, kind=FailureKind.TRANSIENT)
        return self

    def raised(self, step: str) -> StepFailedError:
        """The error that ends a run, with what the step raised as its cause."""
        error = StepFailedError(step, self.kind, self.error_type, self.message, self.traceback_text)
        error.__cause__ = self.error
        return error


def classify(error: BaseException) -> FailureKind:
    """Class of an error raised by a step's own code."""
    number = error.error_number if isinstance(error, StoreError) else getattr(error, "errno", None)
    if isinstance(error, MemoryError) or number in FULL:
        return FailureKind.SYSTEM
    if isinstance(error, ConnectionError | TimeoutError) or number in PASSING:
        return FailureKind.TRANSIENT
    return FailureKind.PERMANENT


def retry_delay_s(
    kind: FailureKind, failures: Mapping[FailureKind, int], retry: Retry
) -> float | None:
    """Decide on another attempt after a failure of class ``kind``.

    Args:
        kind: Class of the last failure.
        failures: How often each class has struck this step in this run so far, the last included.
        retry: The step's budgets.

    Returns:
        Seconds to wait, or None when the budget of this class is used up.
    """
    count, budget = failures.get(kind, 0), getattr(retry, kind, 0)
    if count > budget:
        return None
    # The exponent is bounded before the power, which would overflow a float.
    return min(retry.backoff_s * 2.0 ** min(count - 1, 32), _MAX_BACKOFF_S)


def _travels(error: Exception) -> bool:
    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:  # noqa: BLE001 - anything may go wrong in another class's pickling
        return False
