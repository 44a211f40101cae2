"""Token kinds of a forward: checked if given, derived from ``input_ids`` if not."""

import torch
from torch import Tensor

from workloads.kinds import TokenKind
from workloads.mod.foreign import Foreign


def default_kinds(
    input_ids: Tensor,
    *,
    image_token_id: int | None,
    labels: Tensor | None,
    past_length: int,
    prompt_length: int | None = None,
) -> Tensor:
    """Kinds of tokens as far as their ids tell: images, answers by their labels, questions else.

    Tokens behind the prompt are generated ones, so answers. The chat template knows
    more: prefer kinds from the processor where there are any.

    Args:
        input_ids: int64 ``(batch, seq)``.
        image_token_id: Id that stands for one image feature, if the model takes images.
        labels: int64 ``(batch, seq)``, -100 where there is nothing to learn.
        past_length: Tokens already in the cache.
        prompt_length: Where the prompt ends in the whole sequence; None if only the cache tells.

    Returns:
        int64 ``(batch, seq)`` without padding.
    """
    kinds = torch.full_like(input_ids, TokenKind.QUESTION)
    if prompt_length is None:
        prompt_length = past_length if past_length > 0 else past_length + kinds.shape[1]
    kinds[:, max(prompt_length - past_length, 0) :] = TokenKind.ANSWER
    if labels is not None:
        kinds = kinds.masked_fill(labels != -100, TokenKind.ANSWER)
    if image_token_id is not None:
        kinds = kinds.masked_fill(input_ids == image_token_id, TokenKind.IMAGE)
    return kinds


def with_padding(kinds: Tensor, attention_mask: Foreign) -> Tensor:
    """Mark as padding what a 2-D ``attention_mask`` hides in the last columns.

    Kinds on the CPU of a model on another device are taken as they are: reading the mask would
    make the CPU wait for the device.
    """
    if not isinstance(attention_mask, Tensor) or attention_mask.dim() != 2:
        return kinds
    if attention_mask.device != kinds.device:
        return kinds
    hidden = attention_mask[:, -kinds.shape[1] :] == 0
    return kinds.masked_fill(hidden, TokenKind.PAD)


def check_kinds(kinds: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return ``kinds`` if they fit a batch.

    Raises:
        ValueError: If they have another shape, or are not integers of ``TokenKind``. Values are
            checked on the CPU only: elsewhere reading them would wait for the device.
    """
    if tuple(kinds.shape) != shape:
        raise ValueError(
            f"token_kinds must be (batch, seq) = {shape} like the tokens, got {tuple(kinds.shape)}"
        )
    if kinds.is_floating_point() or kinds.dtype == torch.bool:
        raise ValueError(f"token_kinds must be integers of TokenKind, got {kinds.dtype}")
    if kinds.device.type == "cpu" and kinds.numel() > 0:
        low, high = (int(bound) for bound in kinds.aminmax())
        if low < 0 or high >= len(TokenKind):
            raise ValueError(
                f"token_kinds must be TokenKind values in 0..{len(TokenKind) - 1}, "
                f"got values in {low}..{high}"
            )
    return kinds.long()
