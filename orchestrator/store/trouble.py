"""What the error of a storage service means, told apart without importing its library."""

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.secrets import without_credentials
from orchestrator.store.errors import FULL

_PASSING_STATUS = frozenset({408, 409, 425, 429})
_PERMANENT = (PermissionError, IsADirectoryError, NotADirectoryError)
_NETWORK_LIBRARIES = frozenset({"aiohttp", "aiobotocore", "botocore", "requests", "urllib3"})


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an operation failed."""

    text: str
    """For a person; without the credentials of an address."""

    may_pass: bool
    """Whether the same call may work later: no answer, throttling, or trouble of the server."""

    error_number: int | None
    """``errno`` for ``StoreError``: of a disk here that is full, or a timeout for what may pass."""

    @classmethod
    def behind(cls, error: Exception) -> "Trouble":
        """Look at an error of fsspec, or of the library below it."""
        text = f"{type(error).__name__}: {without_credentials(str(error))}"
        if isinstance(error, OSError) and error.errno in FULL:
            return cls(text, may_pass=False, error_number=error.errno)
        may_pass = _may_pass(error)
        return cls(text, may_pass, errno.ETIMEDOUT if may_pass else None)


def is_taken(error: Exception) -> bool:
    """Whether a create-only put found an object; some services do not name the condition."""
    return isinstance(error, FileExistsError) or _status(error) == 412


def _may_pass(error: Exception) -> bool:
    status = _status(error)
    if status is not None:
        return status in _PASSING_STATUS or status >= 500
    if isinstance(error, OSError):
        return not isinstance(error, _PERMANENT)
    is_network = type(error).__module__.partition(".")[0] in _NETWORK_LIBRARIES
    return is_network and "Credential" not in type(error).__name__


def _status(error: BaseException) -> int | None:
    """HTTP status, as botocore and gcsfs keep it; None if there was no answer."""
    for cause in _chain(error):
        response = getattr(cause, "response", None)
        found = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        status = found.get("HTTPStatusCode") or getattr(cause, "code", None)
        if isinstance(status, int):
            return status
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
