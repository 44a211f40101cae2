"""Flex attention: the family's mask is a function, and a converted layer adds a tensor instead."""

import copy

import pytest
import torch

from tests.workloads.mod import families, tiny
from workloads.mod import MoDConfig, convert

METHODS = ("gamma", "p_mod")


@pytest.fixture(params=METHODS)
def twins(request):
    """The same converted model, with sdpa and with flex attention in its decoder."""
    config = MoDConfig.gamma(layers=[0, 1, 3], capacity_ratio=0.5)
    if request.param == "p_mod":
        config = MoDConfig.p_mod(tiny.NUM_LAYERS)
    return on_both(convert(tiny.llava(), config))


def on_both(sdpa):
    flex = copy.deepcopy(tiny.randomize_routers(sdpa))
    flex.get_decoder().config._attn_implementation_internal = "flex_attention"
    return sdpa, flex


pytestmark = [
    # transformers still asks for the compiled mask of older torch.
    pytest.mark.filterwarnings("ignore:_compile flag:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:flex_attention called without:UserWarning"),
]


@pytest.fixture(autouse=True)
def uncompiled():
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_prompt_gives_the_logits_of_sdpa(twins, side):
    batch = tiny.batch(tiny.mixed_rows(), side=side)
    with torch.no_grad():
        sdpa, flex = (model(**batch).logits for model in twins)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(flex[real], sdpa[real], atol=1e-5, rtol=1e-4)


def test_generated_tokens_are_those_of_sdpa(twins):
    batch = tiny.batch(tiny.mixed_rows(), side="left")
    greedy = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    sdpa, flex = (model.generate(**batch, **greedy) for model in twins)
    assert torch.equal(sdpa, flex)


def test_image_blocks_and_sliding_windows_of_a_family_are_kept():
    dense = families.tiny_model("gemma3")
    sdpa, flex = on_both(convert(dense, families.p_mod(dense, 0.5)))
    batch = tiny.batch([tiny.row(question=8)])
    del batch["pixel_values"]  # the family's tower has other sizes; image tokens are enough
    with torch.no_grad():
        expected, logits = (model(**batch).logits for model in (sdpa, flex))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
