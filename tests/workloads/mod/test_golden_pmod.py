"""p-MoD against arrays recorded from its released code, fp32.

Tolerances as for gamma-MoD (test_golden_gamma.py). Padded positions are not compared: what
dense layers compute there depends on the attention kernel.
"""

import pytest
import torch

from tests.workloads.mod.golden import Golden, kinds_from
from workloads.kinds import TokenKind
from workloads.mod import MoDConfig, RoutingRecord, convert

VALUES = {"atol": 1.5e-5, "rtol": 0.0}
GRADIENTS = {"atol": 1e-6, "rtol": 1e-4}
LAYERS = (2, 3, 4, 5)


@pytest.fixture(scope="module")
def golden():
    return Golden("pmod")


def converted(golden, attention="sdpa"):
    model = convert(golden.model(attention), MoDConfig.p_mod(golden.config["layers"]))
    for layer in LAYERS:
        prefix = f"model.layers.{layer}.router.router."
        found = {n: w for n, w in golden.weights().items() if n.startswith(prefix)}
        state = {name.removeprefix(prefix): weight for name, weight in found.items()}
        model.model.layers[layer].mod_router.load_state_dict(state)
    return model


def training_batch(golden, part, model):
    mask, labels = golden.tensor(f"{part}/attention_mask"), golden.tensor(f"{part}/labels")
    if part == "train_mm":
        routable = golden.tensor(f"{part}/mod_target_mask")
        embeddings = golden.spliced(model, part)[:, : mask.shape[1]]
    else:
        routable = torch.zeros_like(mask)
        embeddings = model.get_input_embeddings()(golden.tensor(f"{part}/input_ids"))
    return {
        "inputs_embeds": embeddings,
        "attention_mask": mask.long(),
        "labels": labels,
        "token_kinds": kinds_from(routable, mask, labels),
    }


def test_schedule_is_the_recorded_one(golden):
    config = MoDConfig.p_mod(golden.config["layers"])
    assert dict(zip(map(str, config.layers), config.capacities, strict=True)) == pytest.approx(
        golden.config["ratios"]
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("part", ["train_mm", "train_text"])
def test_training_forward_and_gradients_are_the_released_ones(golden, part, attention):
    model = converted(golden, attention).train()
    batch = training_batch(golden, part, model)
    real = golden.tensor(f"{part}/attention_mask")

    outputs = model(**batch, output_hidden_states=True)
    outputs.loss.backward()

    def expect(name, actual, tolerance=VALUES, at=...):
        torch.testing.assert_close(actual[at], golden.tensor(f"{part}/{name}")[at], **tolerance)

    expect("logits", outputs.logits, at=real)
    expect("hidden_states", torch.stack(outputs.hidden_states), at=(slice(None), real))
    expect("loss", outputs.loss)
    layers = model.model.layers
    expect("grad_mlp_down_2", layers[2].mlp.down_proj.weight.grad, GRADIENTS)
    expect("grad_kproj_5", layers[5].self_attn.k_proj.weight.grad, GRADIENTS)
    for layer in LAYERS:
        router = layers[layer].mod_router
        if part == "train_mm":
            expect(f"grad_router_{layer}", router.weight.grad, GRADIENTS)
            expect(f"grad_router_bias_{layer}", router.bias.grad, GRADIENTS)
        else:
            assert torch.count_nonzero(router.weight.grad) == 0


def test_training_keeps_the_tokens_that_the_released_code_kept(golden):
    model = converted(golden).train()
    record = RoutingRecord(keep_masks=True)
    model(**training_batch(golden, "train_mm", model), routing_record=record)
    for layer in LAYERS:
        assert torch.equal(record.masks[layer][0], golden.tensor(f"train_mm/kept_mask_{layer}"))


def prompt(golden):
    target = golden.tensor("eval/mod_target_mask")
    kinds = torch.where(target, int(TokenKind.IMAGE), int(TokenKind.QUESTION))
    return {
        "inputs_embeds": golden.tensor("eval/inputs_embeds"),
        "attention_mask": torch.ones_like(kinds),
        "token_kinds": kinds,
    }


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_prefill_and_decode_are_the_released_ones(golden, attention):
    model = converted(golden, attention)
    with torch.no_grad():
        outputs = model(**prompt(golden), output_hidden_states=True, use_cache=True)
        torch.testing.assert_close(outputs.logits, golden.tensor("eval/prefill_logits"), **VALUES)
        hidden = torch.stack(outputs.hidden_states)
        torch.testing.assert_close(hidden, golden.tensor("eval/prefill_hidden_states"), **VALUES)
        cache, logits, lengths = outputs.past_key_values, [], []
        for token in golden.tensor("eval/tokens"):
            logits.append(outputs.logits[:, -1])
            lengths.append([layer.keys.shape[-2] for layer in cache.layers])
            keys = cache.layers[5].keys
            outputs = model(
                input_ids=token.view(1, 1),
                attention_mask=torch.ones(1, cache.get_seq_length() + 1, dtype=torch.long),
                past_key_values=cache,
            )
    torch.testing.assert_close(torch.stack(logits), golden.tensor("eval/step_logits"), **VALUES)
    assert lengths == golden.tensor("eval/kv_len").tolist()
    torch.testing.assert_close(keys, golden.tensor("eval/key_cache_5"), **VALUES)


def test_greedy_generation_says_what_the_released_model_said(golden):
    tokens = converted(golden).generate(**prompt(golden), max_new_tokens=7, do_sample=False)
    assert tokens[0].tolist() == golden.tensor("eval/tokens").tolist()
