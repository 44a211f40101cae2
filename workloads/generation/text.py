"""AnswerText: tokens to text while they come, in whole characters and up to a stop string."""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class AnswerText:
    """Grows by tokens; what could still turn out to begin a stop string is held back.

    Args:
        tokenizer: The tokenizer behind a fast one.
        stop: Texts that end the answer, none empty.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._stream = DecodeStream(skip_special_tokens=True)
        self._held = ""
        self.has_stopped = False

    def add(self, token: int) -> str:
        """Take a token; returns what can be shown now, which is often nothing."""
        self._held += self._stream.step(self._tokenizer, token) or ""
        starts = [start for text in self._stop if (start := self._held.find(text)) >= 0]
        if starts:
            self.has_stopped = True
            shown, self._held = self._held[: min(starts)], ""
            return shown
        cut = len(self._held) - max(map(self._overlap, self._stop), default=0)
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def rest(self) -> str:
        """What was held back, once no token follows; half a character is dropped."""
        shown, self._held = self._held, ""
        return shown

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins ``stop``."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if stop.startswith(self._held[-n:])), 0)
