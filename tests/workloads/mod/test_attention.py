"""Attention other than sdpa: flash attention with a kernel in plain torch, and flex attention.

Flex attention's masks are functions; a converted layer adds a tensor instead.
"""

import copy

import pytest
import torch
from transformers.integrations import flash_attention

from tests.workloads.mod import families, tiny
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


pytestmark = [
    # transformers still asks for the compiled mask of older torch.
    pytest.mark.filterwarnings("ignore:_compile flag:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:flex_attention called without:UserWarning"),
]


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


@pytest.fixture(params=["flash_attention_2", "flex_attention"])
def twins(request, config, monkeypatch):
    """The same converted model, with sdpa and with another attention in its decoder."""
    monkeypatch.setattr(flash_attention, "_flash_attention_forward", plain_flash)
    with torch.compiler.set_stance("force_eager"):
        yield on_both(convert(tiny.llava(), config), request.param)


def on_both(sdpa, attention):
    other = copy.deepcopy(tiny.randomize_routers(sdpa))
    other.get_decoder().config._attn_implementation_internal = attention
    return sdpa, other


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_prompt_gives_the_logits_of_sdpa(twins, side):
    batch = tiny.batch(tiny.mixed_rows(), side=side)
    with torch.no_grad():
        sdpa, other = (model(**batch).logits for model in twins)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(other[real], sdpa[real], atol=1e-5, rtol=1e-4)


def test_generated_tokens_are_those_of_sdpa(twins):
    batch = tiny.batch(tiny.mixed_rows(), side="left")
    greedy = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    sdpa, other = (model.generate(**batch, **greedy) for model in twins)
    assert torch.equal(sdpa, other)


def test_several_tokens_behind_a_cache_are_those_of_sdpa(twins):
    batch = tiny.batch([tiny.row(question=8)])
    greedy = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    lookup = greedy | {"prompt_lookup_num_tokens": 2}
    sdpa, other = twins
    assert torch.equal(other.generate(**batch, **lookup), sdpa.generate(**batch, **greedy))


def test_flex_attention_keeps_image_blocks_and_sliding_windows_of_a_family():
    dense = families.tiny_model("gemma3")
    sdpa, flex = on_both(convert(dense, families.p_mod(dense, 0.5)), "flex_attention")
    batch = tiny.batch([tiny.row(question=8)])
    del batch["pixel_values"]  # the family's tower has other sizes; image tokens are enough
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        expected, logits = (model(**batch).logits for model in (sdpa, flex))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
