"""What passes between the gateway and the model: a question there, events back."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from workloads.data import Turn


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image as it came."""

    field: str
    """Where in the request, for messages."""
    content: bytes


@dataclass(frozen=True, slots=True)
class Ask:
    """A conversation to go on with."""

    turns: tuple[Turn, ...]
    """Every ``<image>`` mark in them stands for the next image."""
    images: tuple[EncodedImage, ...]
    sampling: Mapping[str, Any]
    """Fields of `workloads.generation.Sampling`, which the gateway need not import."""


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt is fit to be answered, and its batch begins."""

    batch: int
    """Prompts in it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The answer is complete."""

    reason: Literal["stop", "length", "cancelled"]
    prompt_tokens: int
    completion_tokens: int
    skip: float | None
    """Measured; None for a dense model."""


Event = Started | Piece | Ended
"""One ``Started``, any number of ``Piece``, one ``Ended``."""


class Model(Protocol):
    """What the gateway needs of a model, wherever it runs."""

    def answer(self, ask: Ask) -> AsyncIterator[Event]:
        """Answer; closing the iterator cancels.

        Raises:
            WorkloadError: If the prompt cannot be answered: what the client did wrong.
        """

    async def is_ready(self) -> bool:
        """Whether it is loaded and would answer."""
