"""Tiny seeded models and batches for the tests of ``workloads.mod``."""

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from workloads.kinds import TokenKind

IMAGE_TOKEN = 3
PAD_TOKEN = 0
IMAGE_FEATURES = 16
NUM_LAYERS = 4


def llama_config(**changes):
    values = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 64,
        "max_position_embeddings": 256,
        "pad_token_id": PAD_TOKEN,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.2,
    }
    return LlamaConfig(**(values | changes))


def llava(attention="sdpa", seed=0, **text):
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=4,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=llama_config(**text),
        image_token_id=IMAGE_TOKEN,
        image_seq_length=IMAGE_FEATURES,
    )
    config._attn_implementation = attention
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.pad_token_id = PAD_TOKEN
    return model


def llama(attention="sdpa", seed=0, **changes):
    torch.manual_seed(seed)
    config = llama_config(**changes)
    config._attn_implementation = attention
    return LlamaForCausalLM(config).eval()


def row(images=1, system=2, question=5, answer=0, seed=0):
    """Token ids and kinds of one conversation, its images after the system prompt."""
    generator = torch.Generator().manual_seed(seed)
    kinds = [TokenKind.SYSTEM] * system + [TokenKind.IMAGE] * (images * IMAGE_FEATURES)
    kinds += [TokenKind.QUESTION] * question + [TokenKind.ANSWER] * answer
    kinds = torch.tensor(kinds)
    ids = torch.randint(4, 64, kinds.shape, generator=generator)
    return ids.masked_fill(kinds == TokenKind.IMAGE, IMAGE_TOKEN), kinds, images


def batch(rows, side="right", labels=False, seed=0):
    """Pad rows to one length; with labels, answers are learned."""
    length = max(len(ids) for ids, _, _ in rows)
    ids = torch.full((len(rows), length), PAD_TOKEN)
    kinds = torch.full((len(rows), length), int(TokenKind.PAD))
    for index, (row_ids, row_kinds, _) in enumerate(rows):
        where = slice(0, len(row_ids)) if side == "right" else slice(length - len(row_ids), length)
        ids[index, where], kinds[index, where] = row_ids, row_kinds
    tensors = {
        "input_ids": ids,
        "attention_mask": (kinds != TokenKind.PAD).long(),
        "token_kinds": kinds,
    }
    if images := sum(count for _, _, count in rows):
        generator = torch.Generator().manual_seed(seed)
        tensors["pixel_values"] = torch.randn(images, 3, 16, 16, generator=generator)
    if labels:
        tensors["labels"] = ids.masked_fill(kinds != TokenKind.ANSWER, -100)
    return tensors


def mixed_rows(answer=0):
    """One image, two images, text only, one image with a long question."""
    return [
        row(images=1, question=5, answer=answer, seed=1),
        row(images=2, question=3, answer=answer, seed=2),
        row(images=0, question=6, answer=answer, seed=3),
        row(images=1, question=9, answer=answer, seed=4),
    ]


def one_row(tensors, index, rows):
    """Row ``index`` of a batch alone, without its padding and with its own images."""
    keep = tensors["attention_mask"][index].bool()
    alone = {
        name: tensors[name][index : index + 1, keep]
        for name in ("input_ids", "attention_mask", "token_kinds", "labels")
        if name in tensors
    }
    before = sum(count for _, _, count in rows[:index])
    if count := rows[index][2]:
        alone["pixel_values"] = tensors["pixel_values"][before : before + count]
    return alone


def randomize_routers(model, scale=0.5, seed=7):
    """Give routers weights that part tokens clearly; p-MoD starts them at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mod_router" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model
