"""The error that ends a command with an exit code of its own, and a store's.

Exit codes: 1 failed, 2 wrong usage or configuration, 3 stopped but resumable.
"""

import errno
from dataclasses import dataclass, fields

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Of a disk."""

PASSING = frozenset(
    {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT, errno.ESTALE, errno.EIO}
)
"""Of something outside that may answer later."""


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
        return 3 if self.error_number in FULL | PASSING else 2

    def __str__(self) -> str:
        return f"store {self.url}: {self.path + ': ' if self.path else ''}{self.reason}"
