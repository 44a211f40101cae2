import pytest
import torch
from torch.nn import functional as F

from tests.workloads.mod import tiny
from workloads.kinds import TokenKind
from workloads.mod import MoDConfig, RoutingRecord, convert, nominal_skip

GAMMA = MoDConfig.gamma(layers=[0, 1, 3], capacity_ratio=0.5)
P_MOD = MoDConfig.p_mod(tiny.NUM_LAYERS)
PRESETS = pytest.mark.parametrize("config", [GAMMA, P_MOD], ids=["gamma", "p_mod"])


def training_batch(**changes):
    return tiny.batch(tiny.mixed_rows(answer=4), labels=True, **changes)


def routers(model):
    return {n: p for n, p in model.named_parameters() if "mod_router" in n}


def layer_traffic(model, batch, record):
    """Input and output of every decoder layer in one forward."""
    traffic = []
    hooks = [
        layer.register_forward_hook(lambda _m, args, output: traffic.append((args[0], output)))
        for layer in model.get_decoder().layers
    ]
    with torch.no_grad():
        model(**batch, routing_record=record)
    for hook in hooks:
        hook.remove()
    return traffic


def test_skipped_tokens_leave_a_gamma_layer_unchanged():
    model = tiny.randomize_routers(convert(tiny.llava(), GAMMA)).train()
    record = RoutingRecord(keep_masks=True)
    batch = training_batch()
    traffic = layer_traffic(model, batch, record)
    for layer in GAMMA.layers:
        routed = record.masks[layer][0]
        given, output = traffic[layer]
        assert (~routed & batch["attention_mask"].bool()).any()
        assert torch.equal(output[~routed], given[~routed])
        assert not torch.isclose(output[routed], given[routed]).all(-1).any()


def test_skipped_tokens_leave_a_p_mod_layer_scaled_by_their_weight():
    model = tiny.randomize_routers(convert(tiny.llava(), P_MOD), scale=0.05).train()
    record = RoutingRecord(keep_masks=True)
    batch = training_batch()
    traffic = layer_traffic(model, batch, record)
    for layer in P_MOD.layers:
        given, output = traffic[layer]
        logits = model.get_decoder().layers[layer].mod_router(given)
        weight = (1 + 0.2 * logits.tanh()).unsqueeze(-1)
        skipped = ~record.masks[layer][0] & (batch["token_kinds"] == TokenKind.IMAGE)
        padding = batch["attention_mask"] == 0
        assert skipped.any()
        torch.testing.assert_close(output[skipped], (given * weight)[skipped])
        assert torch.equal(output[padding], given[padding])


def test_the_router_loss_is_the_mean_cross_entropy_over_real_tokens():
    model = tiny.randomize_routers(convert(tiny.llava(), GAMMA)).train()
    record = RoutingRecord(keep_masks=True)
    batch = training_batch()
    traffic = layer_traffic(model, batch, RoutingRecord())
    loss = model(**batch, routing_record=record).loss
    router, real = model.get_decoder().mod_router, batch["attention_mask"].bool()
    losses = []
    for layer in GAMMA.layers:
        norm = model.get_decoder().layers[layer].input_layernorm
        both_logits = F.linear(norm(traffic[layer][0]), router.weight)
        target = record.masks[layer][0].long()
        losses.append(F.cross_entropy(both_logits[real], target[real]))
    torch.testing.assert_close(
        torch.stack(list(record.router_losses.values())), torch.stack(losses)
    )
    torch.testing.assert_close(record.router_loss, sum(losses))
    torch.testing.assert_close(loss, record.lm_loss + 0.01 * sum(losses))


@pytest.mark.parametrize("capacity", [0.5, 1.0])
def test_the_input_norm_of_a_gamma_layer_runs_once_for_router_and_layer(capacity):
    model = convert(tiny.llava(), MoDConfig.gamma(layers=[1], capacity_ratio=capacity)).train()
    calls = []
    norm = model.get_decoder().layers[1].input_layernorm
    norm.register_forward_hook(lambda *_: calls.append("norm"))
    model(**tiny.batch([tiny.row()]))
    assert calls == ["norm"]
    assert model.get_decoder().layers[1].input_layernorm is norm


def test_outside_training_the_loss_is_the_language_models():
    model = tiny.randomize_routers(convert(tiny.llava(), GAMMA))
    record = RoutingRecord()
    with torch.no_grad():
        assert model(**training_batch(), routing_record=record).loss == record.lm_loss
    assert record.router_loss is None


def test_gradients_reach_the_shared_router_and_every_router_of_p_mod():
    gamma = convert(tiny.llava(), GAMMA).train()
    gamma(**training_batch()).loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in routers(gamma).values())

    p_mod = convert(tiny.llava(), P_MOD).train()
    p_mod(**training_batch()).loss.backward()
    last = f"layers.{tiny.NUM_LAYERS - 1}."
    for name, parameter in routers(p_mod).items():
        # What an image token leaves the last layer with, no loss reads.
        assert (parameter.grad.abs().sum() > 0) == (last not in name), name


@PRESETS
def test_a_text_only_batch_touches_every_router(config):
    model = convert(tiny.llava(), config).train()
    batch = tiny.batch([tiny.row(images=0, answer=3), tiny.row(images=0, answer=2)], labels=True)
    assert "pixel_values" not in batch
    model(**batch).loss.backward()
    assert all(p.grad is not None for p in routers(model).values())


@PRESETS
def test_gradient_checkpointing_changes_neither_loss_nor_gradients_nor_counts(config):
    results = []
    for checkpointing in (False, True):
        model = tiny.randomize_routers(convert(tiny.llava(), config), scale=0.1).train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        record = RoutingRecord()
        loss = model(**training_batch(), routing_record=record).loss
        # Another forward before the backward must not disturb what is recomputed.
        model(**training_batch(seed=5))
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append((loss, record.per_layer(), gradients))
    (loss, counts, gradients), (other_loss, other_counts, other_gradients) = results
    assert torch.equal(loss, other_loss)
    assert counts == other_counts
    assert gradients.keys() == other_gradients.keys()
    assert all(torch.equal(gradients[name], other_gradients[name]) for name in gradients)


def test_reentrant_checkpointing_is_refused_because_it_loses_the_router_loss():
    model = convert(tiny.llava(), GAMMA).train()
    model.activation_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match="use_reentrant=False"):
        model(**training_batch())


@pytest.mark.parametrize("masked", ["none", "question", "question+answer", "image-only"])
def test_protected_tokens_are_never_skipped_and_padding_never_counted(masked):
    config = MoDConfig.gamma(layers=[1, 2], capacity_ratio=0.4, masked=masked)
    model = tiny.randomize_routers(convert(tiny.llava(), config)).train()
    batch, record = training_batch(), RoutingRecord(keep_masks=True)
    model(**batch, routing_record=record)
    for layer, shares in record.per_layer().items():
        assert "pad" not in shares
        for kind in ("system", "image", "question", "answer"):
            if kind not in config.routable:
                assert shares[kind] == 0.0
        assert shares["image"] > 0.0
        routed = record.masks[layer][0]
        assert not routed[batch["attention_mask"] == 0].any()
    measured = (record.skip_routable(), record.skip_all())
    assert measured == pytest.approx(nominal_skip(config, batch["token_kinds"]))


def test_rows_choose_by_themselves_whatever_stands_beside_them():
    rows = tiny.mixed_rows(answer=4)
    batch = tiny.batch(rows)
    for config in (GAMMA, P_MOD):
        model = tiny.randomize_routers(convert(tiny.llava(), config), scale=0.1).train()
        with torch.no_grad():
            together = model(**batch).logits
            for index in range(len(rows)):
                alone = tiny.one_row(batch, index, rows)
                logits = model(**alone).logits[0]
                # The dense model's own rows differ by as much beside padding.
                torch.testing.assert_close(
                    together[index, : len(logits)], logits, atol=5e-5, rtol=0.0
                )


def test_padding_side_does_not_change_what_is_learned():
    losses = []
    for side in ("left", "right"):
        model = tiny.randomize_routers(convert(tiny.llava(), GAMMA)).train()
        batch = training_batch(side=side)
        positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        losses.append(model(**batch, position_ids=positions).loss)
    torch.testing.assert_close(*losses, atol=1e-5, rtol=0.0)


def test_kinds_come_from_the_ids_if_none_are_given():
    batch = training_batch()
    config = MoDConfig.gamma(layers=[1], masked="image-only")
    model = tiny.randomize_routers(convert(tiny.llava(), config)).train()
    with torch.no_grad():
        given = model(**batch).logits
        batch.pop("token_kinds")
        assert torch.equal(model(**batch).logits, given)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_callers_own_mask_survives_the_gather(attention):
    model = tiny.randomize_routers(convert(tiny.llava(attention), P_MOD), scale=0.1)
    batch = tiny.batch([tiny.row(seed=1), tiny.row(seed=2)])
    length = batch["input_ids"].shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()[None, None].expand(2, 1, -1, -1)
    given = causal if attention == "sdpa" else torch.where(causal, 0.0, torch.finfo().min)
    with torch.no_grad():
        plain = model(**batch).logits
        same = model(**(batch | {"attention_mask": given})).logits
        torch.testing.assert_close(same, plain, atol=1e-5, rtol=0.0)
        # A window that hides the first token from everyone else shows up in the result.
        window = causal.clone()
        window[:, :, 1:, 0] = False
        given = window if attention == "sdpa" else torch.where(window, 0.0, torch.finfo().min)
        other = model(**(batch | {"attention_mask": given})).logits
    assert not torch.isclose(other, plain, atol=1e-4).all()


def test_bf16_runs_and_learns():
    for config in (GAMMA, P_MOD):
        model = convert(tiny.llava().to(torch.bfloat16), config).train()
        batch = training_batch()
        batch["pixel_values"] = batch["pixel_values"].to(torch.bfloat16)
        outputs = model(**batch)
        outputs.loss.backward()
        assert outputs.logits.dtype == torch.bfloat16
        assert all(p.grad.isfinite().all() for p in routers(model).values())


class TestRefusals:
    def test_kinds_of_another_shape(self):
        model = convert(tiny.llava(), P_MOD)
        batch = training_batch()
        batch["token_kinds"] = batch["token_kinds"][:, 1:]
        with pytest.raises(ValueError, match=r"token_kinds must be \(batch, seq\)"):
            model(**batch)

    def test_embeddings_without_kinds(self):
        model = convert(tiny.llava(), P_MOD)
        with pytest.raises(ValueError, match="token_kinds is required with inputs_embeds"):
            model(inputs_embeds=torch.randn(1, 4, 32))

    def test_a_decoder_without_kinds(self):
        model = convert(tiny.llava(), P_MOD)
        with pytest.raises(ValueError, match="token_kinds is required"):
            model.get_decoder()(inputs_embeds=torch.randn(1, 4, 32))

    def test_a_layer_outside_its_decoder(self):
        layer = convert(tiny.llava(), P_MOD).get_decoder().layers[-1]
        with pytest.raises(ValueError, match="only inside its converted decoder"):
            layer(torch.randn(1, 4, 32))
