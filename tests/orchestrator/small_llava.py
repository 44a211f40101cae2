"""The smallest Llava that answers: random weights, images of 32 x 32 pixels."""

import torch
from transformers import PreTrainedModel, ProcessorMixin

from workloads.models.architecture import Architecture, build_model
from workloads.models.processor import build_processor, train_tokenizer

_IMAGE_PIXELS = 32


def small_llava(*, layers: int, patch_pixels: int) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Build model and processor; the same weights each time."""
    torch.manual_seed(0)
    sizes = Architecture(
        image_pixels=_IMAGE_PIXELS,
        patch_pixels=patch_pixels,
        vision_hidden=16,
        vision_intermediate=16,
        vision_layers=1,
        vision_heads=2,
        hidden=16,
        intermediate=16,
        layers=layers,
        heads=2,
    )
    tokenizer = train_tokenizer(["which digit is there ? 3"], vocabulary_size=300)
    processor = build_processor(tokenizer, image_pixels=_IMAGE_PIXELS, patch_pixels=patch_pixels)
    return build_model(sizes, processor), processor
