"""What goes wrong in serving: told to a client, or to whoever starts the server."""

from dataclasses import dataclass
from typing import Any

from orchestrator.errors import PreflightError


class ServingError(PreflightError):
    """The server cannot be started as asked.

    Args:
        reason: What is wrong, what was expected and what to do.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


@dataclass(eq=False)
class ApiError(Exception):
    """A request is answered with an error.

    Args:
        status: Of HTTP.
        message: What is wrong, what was expected and what to do.
        field: Of the request, as OpenAI's ``param``.
        code: A word for programs.
    """

    status: int
    message: str
    field: str | None = None
    code: str | None = None

    def document(self) -> dict[str, Any]:
        """The shape of OpenAI's errors."""
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, _TYPES[self.status // 100 * 100]),
                "param": self.field,
                "code": self.code,
            }
        }


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    429: "rate_limit_error",
    500: "server_error",
}
