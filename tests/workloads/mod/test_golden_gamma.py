"""gamma-MoD against arrays recorded from its released code (LLaVA-HR variant), fp32.

Tolerances: recorded and recomputed values differ by the attention kernel alone. The golden
README saw 7e-6 on logits and hidden states and 2e-7 on gradients with a re-implementation;
the bounds here are twice that, indices and lengths are exact.
"""

from dataclasses import replace

import pytest
import torch

from tests.workloads.mod.golden import Golden, kinds_from
from workloads.kinds import TokenKind
from workloads.mod import MoDConfig, RoutingRecord, convert

VALUES = {"atol": 1.5e-5, "rtol": 0.0}
GRADIENTS = {"atol": 1e-6, "rtol": 1e-4}
EVERY_KIND = ("system", "image", "question", "answer")


@pytest.fixture(scope="module")
def golden():
    return Golden("gamma_hr")


def released_config(golden):
    config = MoDConfig.gamma(
        layers=golden.config["mod_layers_idx"],
        capacity_ratio=0.5,
        masked="question+answer",
        aux_weight=golden.config["coef"],
        threshold=golden.config["thresholds"]["prefill"],
        decode_threshold=golden.config["thresholds"]["decode"],
        positions="compact",
    )
    # Outside training the released code protects nothing.
    return replace(config, inference_routable=EVERY_KIND)


def converted(golden, attention="sdpa"):
    model = convert(golden.model(attention), released_config(golden))
    router = golden.weights()["model.layers.3.router.weight"]
    model.model.mod_router.load_state_dict({"weight": router})
    return model


def training_batch(golden, part, model):
    mask, labels = golden.tensor(f"{part}/attention_mask"), golden.tensor(f"{part}/labels")
    prefix = golden.config["img"] + golden.config["ins"]
    routable = torch.zeros_like(mask)
    if part == "train_mm":
        routable[:, :prefix] = True
        embeddings = golden.spliced(model, part)
    else:
        embeddings = model.get_input_embeddings()(golden.tensor(f"{part}/input_ids"))
    return {
        "inputs_embeds": embeddings,
        "attention_mask": mask.long(),
        "labels": labels,
        "token_kinds": kinds_from(routable, mask, labels),
    }


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("part", ["train_mm", "train_text"])
def test_training_forward_and_gradients_are_the_released_ones(golden, part, attention):
    model = converted(golden, attention).train()
    batch = training_batch(golden, part, model)
    torch.testing.assert_close(batch["inputs_embeds"], golden.tensor(f"{part}/inputs_embeds"))
    record = RoutingRecord(keep_masks=True)

    outputs = model(**batch, routing_record=record, output_hidden_states=True)
    outputs.loss.backward()

    def expect(name, actual, tolerance=VALUES):
        torch.testing.assert_close(actual, golden.tensor(f"{part}/{name}"), **tolerance)

    expect("logits", outputs.logits)
    expect("hidden_states", torch.stack(outputs.hidden_states))
    expect("aux", torch.stack([record.router_losses[i] for i in (3, 4)]))
    expect("mod_loss", golden.config["coef"] * record.router_loss)
    expect("lm_loss", record.lm_loss)
    expect("loss", outputs.loss)
    expect("grad_router", model.model.mod_router.weight.grad, GRADIENTS)
    expect("grad_mlp_down_first_mod", model.model.layers[3].mlp.down_proj.weight.grad, GRADIENTS)
    expect("grad_qproj_last_mod", model.model.layers[4].self_attn.q_proj.weight.grad, GRADIENTS)
    expect("grad_embed", model.get_input_embeddings().weight.grad, GRADIENTS)


@pytest.mark.parametrize("part", ["train_mm", "train_text"])
def test_training_keeps_the_tokens_that_the_released_code_kept(golden, part):
    model = converted(golden).train()
    record = RoutingRecord(keep_masks=True)
    model(**training_batch(golden, part, model), routing_record=record)
    for index, layer in enumerate((3, 4)):
        mask = record.masks[layer][0]
        kept = [row.nonzero().squeeze(1) for row in mask]
        torch.testing.assert_close(torch.stack(kept), golden.tensor(f"{part}/kept")[index])


def prompt(golden, model):
    ids, image = golden.tensor("eval/prompt_ids"), golden.tensor("eval/image_features")
    at = int((ids[0] < 0).nonzero())
    text = model.get_input_embeddings()(ids.clamp(min=0))
    embeddings = torch.cat([text[:, :at], image, text[:, at + 1 :]], dim=1)
    shape = embeddings.shape[:2]
    return {
        "inputs_embeds": embeddings,
        "attention_mask": torch.ones(shape, dtype=torch.long),
        "token_kinds": torch.full(shape, int(TokenKind.QUESTION)),
    }


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_prefill_and_decode_are_the_released_ones(golden, attention):
    model = converted(golden, attention)
    record = RoutingRecord(keep_masks=True)
    with torch.no_grad():
        inputs = prompt(golden, model)
        outputs = model(**inputs, routing_record=record, output_hidden_states=True, use_cache=True)
        torch.testing.assert_close(outputs.logits, golden.tensor("eval/prefill_logits"), **VALUES)
        hidden = torch.stack(outputs.hidden_states)
        torch.testing.assert_close(hidden, golden.tensor("eval/prefill_hidden_states"), **VALUES)
        kept = torch.stack([record.masks[layer][0] for layer in (3, 4)])
        assert torch.equal(kept, golden.tensor("eval/prefill_kept_mask"))
        steps = list(decode(golden, model, outputs))
    torch.testing.assert_close(
        torch.stack([logits for logits, _ in steps]), golden.tensor("eval/step_logits"), **VALUES
    )
    assert [lengths for _, lengths in steps] == golden.tensor("eval/kv_len").tolist()
    cache = outputs.past_key_values
    for layer in (0, 3, 4):
        expected = golden.tensor(f"eval/key_cache_{layer}")
        torch.testing.assert_close(cache.layers[layer].keys, expected, **VALUES)


def decode(golden, model, outputs):
    """Yield logits and stored keys per layer after the prompt and after each recorded token."""
    cache = outputs.past_key_values
    for token in golden.tensor("eval/tokens"):
        yield outputs.logits[:, -1], [layer.keys.shape[-2] for layer in cache.layers]
        outputs = model(
            input_ids=token.view(1, 1),
            attention_mask=torch.ones(1, cache.get_seq_length() + 1, dtype=torch.long),
            past_key_values=cache,
        )
    # The last token was recorded as chosen but never fed back.
    cache.crop(-1)


def test_greedy_generation_says_what_the_released_model_said(golden):
    model = converted(golden)
    tokens = model.generate(**prompt(golden, model), max_new_tokens=7, do_sample=False)
    assert tokens[0].tolist() == golden.tensor("eval/generate_tokens").tolist()
