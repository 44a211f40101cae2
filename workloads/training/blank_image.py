"""A zero-weight image for text-only micro-batches, so that all ranks run the same modules.

Sharded training reduces gradients (and, in ZeRO-3, gathers weights) module by module. A rank
whose micro-batch holds no image would skip vision tower and projector, and the ranks' collectives
would no longer match: gloo aborts, NCCL hangs.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

_PIXELS = 64
"""Side of the blank image before its processor resizes it: any family's smallest will do."""


@contextmanager
def blank_image_for_text(
    model: PreTrainedModel, image_inputs: Mapping[str, Tensor] | None
) -> Iterator[None]:
    """While it lasts, encode a blank image in every forward pass that has no ``pixel_values``.

    The features are added with weight zero to the embeddings that enter the decoder, which is
    where a family mixes in its image features: the order of modules is the same with and without
    images, in forward and in backward.

    Args:
        model: A Hugging Face image-text model.
        image_inputs: One blank image as its processor returns it, ``pixel_values`` and what
            else ``get_image_features`` takes; None for a text-only model, which is left alone.
    """
    if image_inputs is None:
        yield
        return
    blank = _BlankImage(model, image_inputs)
    decoder: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
    handles = (
        model.register_forward_pre_hook(blank.see_batch, with_kwargs=True),
        # Before a sharding engine's own hooks, which note the order in which modules run.
        decoder.register_forward_pre_hook(blank.mix_in, prepend=True, with_kwargs=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def blank_image_inputs(
    model: PreTrainedModel, processor: ProcessorMixin
) -> dict[str, Tensor] | None:
    """What the model's image encoder takes for one grey image; None for a text-only model."""
    image_processor = getattr(processor, "image_processor", None)
    if image_processor is None or not hasattr(model, "get_image_features"):
        return None
    features = image_processor(Image.new("RGB", (_PIXELS, _PIXELS), "grey"), return_tensors="pt")
    encode: Callable[..., Any] = model.get_image_features  # type: ignore[assignment]
    takes = inspect.signature(encode).parameters
    return {name: value for name, value in features.items() if name in takes}


class _BlankImage:
    def __init__(self, model: PreTrainedModel, image_inputs: Mapping[str, Tensor]) -> None:
        self._encode: Callable[..., Any] = model.get_image_features  # type: ignore[assignment]
        self._inputs = image_inputs
        self._is_due = False

    def see_batch(self, _: nn.Module, __: tuple[Any, ...], batch: dict[str, Any]) -> None:
        self._is_due = batch.get("pixel_values") is None

    def mix_in(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self._is_due:
            return None
        embeddings = kwargs["inputs_embeds"]
        inputs = {name: _like(value, embeddings) for name, value in self._inputs.items()}
        features = self._encode(**inputs).pooler_output
        total = torch.stack([image.float().sum() for image in features]).sum()
        return args, {**kwargs, "inputs_embeds": embeddings + (total * 0.0).to(embeddings.dtype)}


def _like(value: Tensor, embeddings: Tensor) -> Tensor:
    dtype = embeddings.dtype if value.is_floating_point() else value.dtype
    return value.to(embeddings.device, dtype)
