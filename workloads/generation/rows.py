"""Rows: which of a batch are still being answered, told token by token."""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor
from transformers import StoppingCriteria

from workloads.generation.completion import Completion, FinishReason, Listener
from workloads.generation.text import AnswerText


class Row:
    """One prompt of a batch and the answer to it so far.

    Args:
        text: Makes text of its tokens.
        listener: Told of it.
        ends: Ids of the tokens that end an answer.
        limit: Most tokens of the answer.
        prompt_tokens: Length of the prompt.
    """

    def __init__(
        self,
        text: AnswerText,
        listener: Listener,
        *,
        ends: Collection[int],
        limit: int,
        prompt_tokens: int,
    ) -> None:
        self._text, self._listener, self._ends, self._limit = text, listener, ends, limit
        self._prompt_tokens = prompt_tokens
        self._pieces: list[str] = []
        self._tokens = 0
        self.completion: Completion | None = None

    def take(self, token: int, skip: Callable[[], float | None]) -> bool:
        """Go on by one token, unless the row has ended; returns whether it has.

        Args:
            token: Id of the token.
            skip: Tells the measured skip, asked when the row ends.
        """
        if self.completion is not None:
            return True
        self._tokens += 1
        if token not in self._ends:
            self._show(self._text.add(token))
        reason = self._reason(token)
        if reason is None:
            return False
        self._show(self._text.rest())
        self.completion = Completion(
            text="".join(self._pieces),
            reason=reason,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._tokens,
            skip=skip(),
        )
        self._listener.finished(self.completion)
        return True

    def _show(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
            self._listener.text(piece)

    def _reason(self, token: int) -> FinishReason | None:
        if token in self._ends or self._text.has_stopped:
            return "stop"
        if self._tokens >= self._limit:
            return "length"
        return None if self._listener.wants_more() else "cancelled"


class RowsCriteria(StoppingCriteria):
    """Hands every new token to its row; a row that has ended gets padding until all have.

    Transformers asks it after each step, before the step's tokens would reach a streamer, so that
    it can do both: tell, and stop without computing one token too many.

    Args:
        rows: Of the batch, in order.
        skips: Tells what was skipped in each row; asked once, after the prompt was computed.
    """

    def __init__(self, rows: Sequence[Row], skips: Callable[[], Sequence[float | None]]) -> None:
        self._rows, self._ask = rows, skips
        self._skips: Sequence[float | None] | None = None

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        """Bool ``(batch,)``: which rows of the ids ``(batch, seq)`` have ended."""
        tokens = input_ids[:, -1].tolist()
        done = [
            row.take(token, lambda index=index: self._skip(index))  # type: ignore[misc]
            for index, (row, token) in enumerate(zip(self._rows, tokens, strict=True))
        ]
        return torch.tensor(done, device=input_ids.device)

    def _skip(self, index: int) -> float | None:
        if self._skips is None:
            self._skips = self._ask()
        return self._skips[index]
