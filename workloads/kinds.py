"""Token kinds: one per position, and all that routing, masks and measurements know of it."""

from enum import IntEnum


class TokenKind(IntEnum):
    """What a position of the sequence holds; stored as ``int64`` tensors ``(batch, seq)``."""

    PAD = 0
    SYSTEM = 1
    """Template text around the turns: system prompt, role names, separators."""
    IMAGE = 2
    QUESTION = 3
    ANSWER = 4
