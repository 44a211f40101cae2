"""The embedded model's shape: a small LLaVA (CLIP vision encoder, MLP, Llama decoder)."""

from dataclasses import dataclass

import torch
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from workloads.models.processor import MAX_TOKENS


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Sizes of a small LLaVA, all in features, layers, heads or pixels."""

    image_pixels: int = 64
    patch_pixels: int = 8
    vision_hidden: int = 64
    vision_intermediate: int = 192
    vision_layers: int = 3
    vision_heads: int = 4
    hidden: int = 96
    intermediate: int = 256
    layers: int = 8
    heads: int = 4
    positions: int = MAX_TOKENS
    initializer_range: float = 0.08
    """Standard deviation of the decoder's and projector's random weights.

    Near ``hidden ** -0.5``: with Hugging Face's 0.02, meant for widths in the thousands, a decoder
    this narrow stays at the answer's prior three times as long.
    """


def build_model(
    architecture: Architecture, processor: LlavaProcessor
) -> LlavaForConditionalGeneration:
    """Make the model with random weights (torch's global seed) and the processor's token ids."""
    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=architecture.vision_hidden,
        intermediate_size=architecture.vision_intermediate,
        num_hidden_layers=architecture.vision_layers,
        num_attention_heads=architecture.vision_heads,
        image_size=architecture.image_pixels,
        patch_size=architecture.patch_pixels,
        projection_dim=architecture.vision_hidden,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=architecture.hidden,
        intermediate_size=architecture.intermediate,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        max_position_embeddings=architecture.positions,
        initializer_range=architecture.initializer_range,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=processor.image_token_id,
        image_seq_length=(architecture.image_pixels // architecture.patch_pixels) ** 2,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    _shrink_residual_writers(model, (2 * architecture.layers) ** -0.5)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return model


@torch.no_grad()
def _shrink_residual_writers(model: LlavaForConditionalGeneration, factor: float) -> None:
    """Keep the residual's variance level over depth (Radford et al., 2019, section 2.3)."""
    for name, parameter in model.model.language_model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.mul_(factor)
