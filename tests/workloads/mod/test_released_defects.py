"""What the released codes get wrong (gamma-MoD and p-MoD at their published commits) is right here.

Defects of their packaging, of lengths typed into the forward pass and of batches, as far as a model
can have them; those of ARank are in tests/workloads/arank.
"""

import pytest
import torch

from tests.workloads.mod import tiny
from workloads.kinds import TokenKind
from workloads.mod import MoDConfig, RoutingRecord, convert
from workloads.mod.router import selection_score

CONFIGS = {
    "gamma": MoDConfig.gamma(layers=[1, 2], capacity_ratio=0.5, masked="image-only"),
    "p_mod": MoDConfig.p_mod(tiny.NUM_LAYERS),
}
EACH = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def converted(config):
    return tiny.randomize_routers(convert(tiny.llava(), config))


def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def images_at(start, length=30):
    """One row whose image begins at ``start``, not behind a prompt head of a fixed length."""
    kinds = torch.full((length,), TokenKind.QUESTION)
    kinds[start : start + tiny.IMAGE_FEATURES] = TokenKind.IMAGE
    ids = torch.arange(4, 4 + length).masked_fill(kinds == TokenKind.IMAGE, tiny.IMAGE_TOKEN)
    return ids, kinds, 1


@EACH
def test_training_needs_no_padding_and_no_mask(config):
    model = converted(config).train()
    batch = tiny.batch([tiny.row(answer=4), tiny.row(answer=4, seed=1)], labels=True)
    whole = model(**batch).loss
    del batch["attention_mask"]
    assert torch.equal(model(**batch).loss, whole)


@EACH
@pytest.mark.parametrize("start", [0, 1, 9])
def test_an_image_may_begin_anywhere(config, start):
    record = RoutingRecord(keep_masks=True)
    with torch.no_grad():
        converted(config)(**tiny.batch([images_at(start)]), routing_record=record)
    for masks in record.masks.values():
        skipped = (~masks[0][0]).nonzero().flatten()
        assert ((skipped >= start) & (skipped < start + tiny.IMAGE_FEATURES)).all()


@EACH
@pytest.mark.parametrize("features", [1, 4, 16])
def test_short_images_are_routed_too(config, features):
    kinds = torch.tensor([TokenKind.QUESTION] * 2 + [TokenKind.IMAGE] * features)
    record = RoutingRecord()
    model = converted(MoDConfig.from_json(config.to_json() | {"inference": "topk"}))
    ids = torch.arange(4, 4 + len(kinds)).unsqueeze(0)
    with torch.no_grad():
        model(input_ids=ids, token_kinds=kinds.unsqueeze(0), routing_record=record)
    assert record.skip_routable() == 0.0 if features == 1 else record.skip_routable() > 0.0


@EACH
def test_a_text_only_row_beside_an_image_row_skips_nothing(config):
    record = RoutingRecord(keep_masks=True)
    batch = tiny.batch([tiny.row(images=1), tiny.row(images=0, question=8)])
    with torch.no_grad():
        converted(config)(**batch, routing_record=record)
    real = batch["attention_mask"].bool()
    for masks in record.masks.values():
        assert torch.equal(masks[0][1], real[1])


@EACH
def test_a_batch_at_inference_gives_each_rows_own_logits(config):
    model, rows = converted(config), tiny.mixed_rows()
    batch = tiny.batch(rows)
    together = logits(model, batch)
    for index in range(len(rows)):
        alone = logits(model, tiny.one_row(batch, index, rows))[0]
        real = batch["attention_mask"][index].bool()
        torch.testing.assert_close(together[index, real], alone, atol=1e-5, rtol=1e-4)


@EACH
def test_rows_that_keep_equally_many_tokens_are_a_batch_like_any_other(config):
    model = converted(config)
    rows = [tiny.row(seed=seed) for seed in range(3)]
    batch = tiny.batch(rows)
    alone = [logits(model, tiny.one_row(batch, index, rows)) for index in range(3)]
    torch.testing.assert_close(logits(model, batch), torch.cat(alone), atol=1e-5, rtol=1e-4)


@EACH
def test_generation_goes_on_behind_the_first_token(config):
    model = converted(config)
    batch = tiny.batch([tiny.row(), tiny.row(seed=1)], side="left")
    tokens = model.generate(**batch, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert tokens.shape[1] == batch["input_ids"].shape[1] + 5


def test_a_saturated_weight_makes_no_ties_between_tokens():
    scores = selection_score(torch.tensor([20.0, 30.0, 25.0]), CONFIGS["p_mod"])
    assert torch.equal(scores.argsort(descending=True), torch.tensor([1, 2, 0]))


def test_the_decay_ends_with_the_last_layer_of_any_depth():
    for depth in (8, 24, 40):
        config = MoDConfig.p_mod(depth)
        assert config.layers[-1] == depth - 1
        assert config.capacities[-1] == pytest.approx(0.15)
