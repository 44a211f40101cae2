"""The same checks for every image-text family: docs/models.md is the list of those that pass."""

import copy
from inspect import signature

import pytest
import torch

from tests.workloads.mod import families, tiny
from tests.workloads.mod.families import (
    COMMON,
    OTHERS,
    TEXT_ONLY,
    VOCABULARY,
    routable_layers,
    tiny_model,
)
from workloads.kinds import TokenKind
from workloads.mod import MoDConfig, convert, is_converted, load_pretrained, revert, save_pretrained

EVERY_KIND = ("system", "image", "question", "answer")


SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in OTHERS]


@pytest.fixture(scope="module", params=[*TEXT_ONLY, *COMMON, *SLOW])
def dense(request):
    return tiny_model(request.param)


def gamma(model, **changes):
    return MoDConfig.gamma(layers=routable_layers(model), capacity_ratio=0.5, **changes)


def p_mod(model, capacity=0.5, routable=EVERY_KIND):
    return families.p_mod(model, capacity, routable)


def converted(dense, config):
    return tiny.randomize_routers(convert(copy.deepcopy(dense), config))


def row(images, text, seed):
    """Token ids and kinds with runs of image tokens between text; no run, a text-only row.

    No id comes twice: equal tokens would tie in the first layer, and ties have no right order.
    """
    generator = torch.Generator().manual_seed(seed)
    length = 3 + images * 9 + text
    ids = 20 + torch.randperm(VOCABULARY - 20, generator=generator)[:length]
    kinds = torch.full_like(ids, TokenKind.QUESTION)
    for image in range(images):
        kinds[3 + image * 9 : 9 + image * 9] = TokenKind.IMAGE
    return ids, kinds


ROWS = [row(1, 6, 0), row(2, 4, 1), row(0, 9, 2), row(1, 12, 3)]
"""One image, two images, none, and one with a longer question."""


def padded(rows, side="left"):
    length = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    kinds = torch.full_like(ids, TokenKind.PAD)
    for index, (row_ids, row_kinds) in enumerate(rows):
        count = len(row_ids)
        place = slice(length - count, None) if side == "left" else slice(count)
        ids[index, place], kinds[index, place] = row_ids, row_kinds
    mask = (kinds != TokenKind.PAD).long()
    return {"input_ids": ids, "attention_mask": mask, "token_kinds": kinds}


def learned(side="right"):
    batch = padded(ROWS, side)
    is_text = batch["token_kinds"] == TokenKind.QUESTION
    return batch | {"labels": batch["input_ids"].masked_fill(~is_text, -100)}


def needs_token_types(model, batch):
    """Image blocks that see themselves are told apart by token types, which families ask for."""
    types = (batch["token_kinds"] == TokenKind.IMAGE).long()
    taken = {name for part in (model, model.model) for name in signature(part.forward).parameters}
    return {name: types for name in ("token_type_ids", "mm_token_type_ids") if name in taken}


def logits(model, batch):
    if not is_converted(model):
        batch = {name: value for name, value in batch.items() if name != "token_kinds"}
    with torch.no_grad():
        return model(**batch, use_cache=False).logits


def test_p_mod_at_init_with_full_capacity_is_the_dense_model_bit_for_bit(dense):
    model = convert(copy.deepcopy(dense), p_mod(dense, capacity=1.0))
    batch = padded(ROWS, "right")
    assert torch.equal(logits(model, batch), logits(dense, batch))


def test_a_weight_of_zero_leaves_exactly_the_attention_residual(dense):
    config = p_mod(dense, capacity=1.0).to_json() | {"weight_bias": 0.0}
    model = convert(copy.deepcopy(dense), MoDConfig.from_json(config))
    batch = padded(ROWS[:1])
    without_branch = logits(model, batch)
    dense_without = copy.deepcopy(dense)
    for index in routable_layers(dense_without):
        slot = model.get_decoder().layers[index].mod_slot
        branch = getattr(dense_without.get_decoder().layers[index], slot.anatomy.branch)
        branch.register_forward_hook(
            lambda _, __, output: (
                tuple(each * 0 for each in output) if isinstance(output, tuple) else output * 0
            )
        )
    assert torch.equal(without_branch, logits(dense_without, batch))


@pytest.mark.parametrize("make", [gamma, p_mod])
def test_a_training_step_reaches_every_router(dense, make):
    model = converted(dense, make(dense)).train()
    batch = learned()
    model(**batch, **needs_token_types(dense, batch)).loss.backward()
    routers = {n: p.grad for n, p in model.named_parameters() if "mod_router" in n}
    assert routers
    for name, gradient in routers.items():
        assert gradient is not None, name
        assert gradient.abs().sum() > 0, name


def test_gradient_checkpointing_changes_no_gradient(dense):
    gradients = []
    for is_checkpointed in (False, True):
        model = converted(dense, gamma(dense)).train()
        if is_checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": False})
        batch = learned()
        torch.manual_seed(0)
        model(**batch, **needs_token_types(dense, batch)).loss.backward()
        gradients.append([p.grad for n, p in model.named_parameters() if "mod_router" in n])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("make", [gamma, p_mod])
def test_a_batch_with_left_padding_generates_what_its_rows_generate_alone(dense, make):
    model = converted(dense, make(dense))
    together = model.generate(**padded(ROWS), max_new_tokens=4, do_sample=False)[:, -4:]
    for index, one in enumerate(ROWS):
        alone = model.generate(**padded([one]), max_new_tokens=4, do_sample=False)[0, -4:]
        assert torch.equal(together[index], alone), index


def decoding_error(model):
    """Largest difference between the last logits of one forward and of three."""
    batch = padded(ROWS[1:2])
    if not is_converted(model):
        del batch["token_kinds"]
    whole = logits(model, batch)[:, -3:]
    past, stepped = None, []
    for stop in range(batch["input_ids"].shape[1] - 2, batch["input_ids"].shape[1] + 1):
        start = 0 if past is None else stop - 1
        step = {name: values[:, start:stop] for name, values in batch.items()}
        step["attention_mask"] = batch["attention_mask"][:, :stop]
        with torch.no_grad():
            outputs = model(**step, past_key_values=past, use_cache=True)
        past = outputs.past_key_values
        stepped.append(outputs.logits[:, -1:])
    return float((torch.cat(stepped, dim=1) - whole).abs().max())


def test_decoding_differs_from_one_forward_no_more_than_the_dense_model_does(dense):
    """Where a prompt sees all of itself (prefix masks), later tokens change earlier ones."""
    model = converted(dense, p_mod(dense, routable=("system", "image")))
    assert decoding_error(model) <= 2 * decoding_error(dense) + 1e-5


def test_a_saved_model_gives_the_same_logits(dense, tmp_path):
    model = converted(dense, gamma(dense))
    save_pretrained(model, tmp_path / "model")
    attention = model.get_decoder().config._attn_implementation
    loaded = load_pretrained(tmp_path / "model", attn_implementation=attention)
    batch = padded(ROWS, "right")
    assert torch.equal(logits(loaded, batch), logits(model, batch))


def test_conversion_and_back_is_the_dense_model(dense):
    model = revert(converted(dense, gamma(dense)))
    assert not is_converted(model)
    assert type(model) is type(dense)
    assert model.state_dict().keys() == dense.state_dict().keys()
    batch = padded(ROWS, "right")
    assert torch.equal(logits(model, batch), logits(dense, batch))


def test_bfloat16_runs(dense):
    model = converted(dense, gamma(dense)).to(torch.bfloat16)
    assert logits(model, padded(ROWS, "right")).isfinite().all()
