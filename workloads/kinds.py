"""Token kinds: one per position, and all that routing, masks and measurements know of it."""

from enum import IntEnum


class TokenKind(IntEnum):
    """What a position of the sequence holds; stored as ``int64`` tensors ``(batch, seq)``."""

    PAD = 0
    SYSTEM = 1
    """Template text around the turns: system prompt, role names, separators."""
    IMAGE = 2
    QUESTION = 3
    """A question, with the template text behind it that asks for the answer: the position that
    predicts the first answer token is one of these."""
    ANSWER = 4
