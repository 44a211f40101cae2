"""The flash attention path on a CPU: everything of transformers but the kernel, in plain torch."""

import copy

import pytest
import torch
from transformers.integrations import flash_attention

from tests.workloads.mod import tiny
from workloads.mod import MoDConfig, convert

CONFIGS = {
    "gamma": MoDConfig.gamma(layers=[0, 1, 3], capacity_ratio=0.5),
    "p_mod": MoDConfig.p_mod(tiny.NUM_LAYERS),
}


def plain_flash(query, key, value, attention_mask, *, query_length, is_causal, softmax_scale, **_):
    """What the kernel computes: rows without their padding, causal from the bottom right."""
    output = torch.zeros_like(query)
    repeats = query.shape[2] // key.shape[2]
    for row in range(query.shape[0]):
        keys = torch.ones(key.shape[1]).bool()
        if attention_mask is not None:
            assert attention_mask.shape == (query.shape[0], key.shape[1])
            keys = attention_mask[row].bool()
        queries = keys[-query_length:]
        rows = query[row, queries].transpose(0, 1)
        stored = key[row, keys].repeat_interleave(repeats, 1).transpose(0, 1)
        values = value[row, keys].repeat_interleave(repeats, 1).transpose(0, 1)
        scores = rows @ stored.transpose(1, 2) * softmax_scale
        if is_causal:
            seen = torch.ones(scores.shape[1:]).tril(scores.shape[2] - scores.shape[1]).bool()
            scores = scores.masked_fill(~seen, -torch.inf)
        output[row, queries] = (scores.softmax(-1) @ values).transpose(0, 1)
    return output


@pytest.fixture(params=CONFIGS)
def twins(request, monkeypatch):
    """The same converted model, with sdpa and with flash attention in its decoder."""
    monkeypatch.setattr(flash_attention, "_flash_attention_forward", plain_flash)
    sdpa = tiny.randomize_routers(convert(tiny.llava(), CONFIGS[request.param]))
    flash = copy.deepcopy(sdpa)
    flash.get_decoder().config._attn_implementation_internal = "flash_attention_2"
    return sdpa, flash


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_prompt_gives_the_logits_of_sdpa(twins, side):
    batch = tiny.batch(tiny.mixed_rows(), side=side)
    with torch.no_grad():
        sdpa, flash = (model(**batch).logits for model in twins)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(flash[real], sdpa[real], atol=1e-5, rtol=1e-4)


def test_generated_tokens_are_those_of_sdpa(twins):
    batch = tiny.batch(tiny.mixed_rows(), side="left")
    greedy = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    sdpa, flash = (model.generate(**batch, **greedy) for model in twins)
    assert torch.equal(sdpa, flash)


def test_several_tokens_behind_a_cache_are_those_of_sdpa(twins):
    batch = tiny.batch([tiny.row(question=8)])
    greedy = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    lookup = greedy | {"prompt_lookup_num_tokens": 2}
    sdpa, flash = twins
    assert torch.equal(flash.generate(**batch, **lookup), sdpa.generate(**batch, **greedy))
