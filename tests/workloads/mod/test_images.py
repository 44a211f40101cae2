"""Families whose images do more than fill positions, with the images themselves.

gemma3 and paligemma let image tokens see each other, qwen2_vl and qwen3_vl place them in three
dimensions, qwen3_vl adds features of the tower to the first decoder layers (deepstack).
"""

import copy

import pytest
import torch

from tests.workloads.mod import tiny
from tests.workloads.mod.families import (
    IMAGE_TOKEN,
    VOCABULARY,
    p_mod,
    routable_layers,
    tiny_model,
)
from workloads.mod import RoutingRecord, convert, is_converted

TOKENS = {"gemma3": 4, "paligemma": 16, "qwen2_vl": 4, "qwen3_vl": 4}
"""Positions that one image of 32 x 32 pixels takes."""

PATCHES = 16


@pytest.fixture(scope="module", params=TOKENS)
def family(request):
    model = tiny_model(request.param)
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            # gemma3's projector starts at zero: all image tokens would be one and the same.
            torch.nn.init.normal_(parameter, std=0.1)
    return request.param, model


def row(name, images, text, seed):
    """Ids of text with images between; text alone without any."""
    generator = torch.Generator().manual_seed(seed)
    words = 20 + torch.randperm(VOCABULARY - 20, generator=generator)[: 3 + 2 * images + text]
    pieces = [words[:3]]
    for image in range(images):
        pieces += [torch.full((TOKENS[name],), IMAGE_TOKEN), words[3 + 2 * image : 5 + 2 * image]]
    return torch.cat([*pieces, words[3 + 2 * images :]])


def pixels(name, seeds):
    """Pixel arguments of one image for each seed."""
    shape = (PATCHES, 3 * 2 * 8 * 8) if name.startswith("qwen") else (1, 3, 32, 32)
    images = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    values = {"pixel_values": torch.cat(images)}
    if name.startswith("qwen"):
        values["image_grid_thw"] = torch.tensor([[1, 4, 4]] * len(images))
    return values


ROWS = ((1, 6), (2, 4), (0, 9), (1, 8))
"""Images and words of each row."""


def batch(name, rows, side):
    """Rows by their number in ROWS; image ``i`` of row ``r`` has the seed ``10 r + i``."""
    texts = [row(name, *ROWS[r], seed=r) for r in rows]
    length = max(len(ids) for ids in texts)
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, text in enumerate(texts):
        place = slice(length - len(text), None) if side == "left" else slice(len(text))
        ids[index, place], mask[index, place] = text, 1
    types = (ids == IMAGE_TOKEN).long()
    seeds = [10 * r + image for r in rows for image in range(ROWS[r][0])]
    token_types = "mm_token_type_ids" if name.startswith("qwen") else "token_type_ids"
    inputs = {"input_ids": ids, "attention_mask": mask, token_types: types}
    return inputs | (pixels(name, seeds) if seeds else {})


def logits(model, inputs, **more):
    with torch.no_grad():
        return model(**inputs, use_cache=False, **more).logits


@pytest.mark.parametrize("side", ["left", "right"])
def test_at_full_capacity_it_is_the_dense_model_bit_for_bit(family, side):
    name, dense = family
    model = convert(copy.deepcopy(dense), p_mod(dense, 1.0))
    inputs = batch(name, (0, 1, 2, 3), side)
    assert is_converted(model)
    assert torch.equal(logits(model, inputs), logits(dense, inputs))


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_with_one_image_several_and_none_are_what_they_are_alone(family, side):
    name, dense = family
    model = tiny.randomize_routers(convert(copy.deepcopy(dense), p_mod(dense, 0.5)))
    record = RoutingRecord(keep_masks=True)
    inputs = batch(name, (0, 1, 2, 3), side)
    together = logits(model, inputs, routing_record=record)
    dense_together = logits(dense, inputs)
    for index in range(len(ROWS)):
        alone = batch(name, (index,), side)
        real = inputs["attention_mask"][index].bool()
        limit = (dense_together[index, real] - logits(dense, alone)[0]).abs().max()
        error = (together[index, real] - logits(model, alone)[0]).abs().max()
        assert error <= 2 * limit + 1e-5, index
    for masks in record.masks.values():
        skipped = ~masks[0] & inputs["attention_mask"].bool()
        assert skipped.sum(1).tolist() == [images * TOKENS[name] // 2 for images, _ in ROWS]
        assert (inputs["input_ids"][skipped] == IMAGE_TOKEN).all()


def test_a_training_step_with_images_reaches_routers_and_projector(family):
    name, dense = family
    model = convert(copy.deepcopy(dense), p_mod(dense, 0.5)).train()
    inputs = batch(name, (0, 1, 2, 3), "right")
    learned = (inputs["attention_mask"] == 1) & (inputs["input_ids"] != IMAGE_TOKEN)
    model(**inputs, labels=inputs["input_ids"].masked_fill(~learned, -100)).loss.backward()
    # What the last layer adds to an image is read by nobody, so its router may learn nothing.
    first = model.get_decoder().layers[routable_layers(model)[0]].mod_router
    assert first.weight.grad.abs().sum() > 0
    tower = [p.grad for n, p in model.named_parameters() if "vis" in n and p.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in tower)


def test_generation_counts_the_images_it_was_given(family):
    name, dense = family
    model = tiny.randomize_routers(convert(copy.deepcopy(dense), p_mod(dense, 0.5)))
    inputs = batch(name, (0, 1, 2, 3), "left")
    together = model.generate(**inputs, max_new_tokens=3, do_sample=False)[:, -3:]
    for index in range(len(ROWS)):
        alone = batch(name, (index,), "left")
        one = model.generate(**alone, max_new_tokens=3, do_sample=False)[0, -3:]
        assert torch.equal(together[index], one), index
