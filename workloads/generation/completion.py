"""What generation hands out: text as it grows, and what became of a row."""

from dataclasses import dataclass
from typing import Literal, Protocol

FinishReason = Literal["stop", "length", "cancelled"]
"""The model or a stop string ended it; its limit did; nobody wanted it any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """The answer to one prompt."""

    text: str
    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    """Generated ones, with the one that ended the answer."""
    skip: float | None
    """Measured share of the prompt's tokens that Mixture-of-Depths layers skipped, averaged over
    these layers; None for a dense model."""


class Listener(Protocol):
    """Follows one row of a batch; called in the thread that generates."""

    def wants_more(self) -> bool:
        """Whether anybody still waits; if not, the row ends at the next token."""

    def text(self, piece: str) -> None:
        """More of the answer; pieces join to `Completion.text`."""

    def finished(self, completion: Completion) -> None:
        """The row has ended, while others may go on."""


class Unheard:
    """A listener for those who wait for the whole."""

    def wants_more(self) -> bool:
        """Always."""
        return True

    def text(self, piece: str) -> None:
        """Not heard."""

    def finished(self, completion: Completion) -> None:
        """Not heard."""
