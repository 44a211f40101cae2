"""On a CUDA device: the results of the CPU, and no waiting for the device in any layer."""

import copy
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.workloads.mod import tiny
from workloads.mod import (
    MoDConfig,
    calibrate_threshold,
    convert,
    load_pretrained,
    mod_config,
)

pytestmark = pytest.mark.gpu

CONFIGS = {
    "gamma": MoDConfig.gamma(layers=[0, 1, 3], capacity_ratio=0.5),
    "gamma, compact": MoDConfig.gamma(layers=[0, 2], capacity_ratio=0.5, positions="compact"),
    "p_mod": MoDConfig.p_mod(tiny.NUM_LAYERS),
}
GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def on_cuda(tensors):
    return {name: tensor.cuda() for name, tensor in tensors.items()}


def on_both(config, **text):
    cpu = tiny.randomize_routers(convert(tiny.llava(**text), config))
    return cpu, copy.deepcopy(cpu).cuda()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_prompt_gives_the_logits_of_the_cpu(config, side):
    batch = tiny.batch(tiny.mixed_rows(), side=side)
    cpu, cuda = on_both(config)
    with torch.no_grad():
        expected, logits = cpu(**batch).logits, cuda(**on_cuda(batch)).logits.cpu()
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(logits[real], expected[real], atol=1e-4, rtol=1e-3)


def test_generated_tokens_are_those_of_the_cpu(config):
    batch = tiny.batch(tiny.mixed_rows(), side="left")
    cpu, cuda = on_both(config)
    expected = cpu.generate(**batch, **GREEDY)
    assert torch.equal(cuda.generate(**on_cuda(batch), **GREEDY).cpu(), expected)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_bfloat16_trains_every_router_under_gradient_checkpointing(config, attention):
    dense = tiny.llava(attention, hidden_size=128, num_key_value_heads=4)
    model = tiny.randomize_routers(convert(dense, config), scale=0.02)
    model = model.to("cuda", torch.bfloat16).train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    batch = on_cuda(tiny.batch(tiny.mixed_rows(answer=4), labels=True))
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    model(**batch).loss.backward()
    routers = {n: p.grad for n, p in model.named_parameters() if "mod_router" in n}
    assert all(grad.isfinite().all() for grad in routers.values())
    # No answer depends on what the last layer makes of an image token.
    last = f"layers.{tiny.NUM_LAYERS - 1}."
    assert all(grad.any() for name, grad in routers.items() if last not in name)


@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_flex_attention_gives_the_logits_of_sdpa(config):
    _, sdpa = on_both(config, hidden_size=128, num_key_value_heads=4)
    flex = copy.deepcopy(sdpa)
    flex.get_decoder().config._attn_implementation_internal = "flex_attention"
    batch = on_cuda(tiny.batch(tiny.mixed_rows()))
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        expected, logits = (model(**batch).logits[real] for model in (sdpa, flex))
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_untrained_p_mod_that_skips_nothing_is_dense_bit_for_bit(dtype):
    dense = tiny.llava().to("cuda", dtype)
    everything = {"layers": tuple(range(tiny.NUM_LAYERS)), "capacities": (1.0,) * tiny.NUM_LAYERS}
    config = replace(MoDConfig.p_mod(tiny.NUM_LAYERS), **everything)
    mod = convert(copy.deepcopy(dense), config)
    batch = on_cuda(tiny.batch(tiny.mixed_rows()))
    batch["pixel_values"] = batch["pixel_values"].to(dtype)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        ours, theirs = (model(**batch).logits[real] for model in (mod, dense))
    assert torch.equal(ours, theirs)


def test_a_router_that_is_broken_is_named_and_the_device_goes_on():
    _, model = on_both(CONFIGS["p_mod"])
    router = model.get_decoder().layers[2].mod_router
    with torch.no_grad():
        router.weight.fill_(torch.nan)
    batch = on_cuda(tiny.batch(tiny.mixed_rows()))
    with pytest.raises(ValueError, match="router scores of layer 2 are NaN"):
        model(**batch)
    assert torch.ones(3, device="cuda").sum().item() == 3


def test_thresholds_are_calibrated_and_a_folder_loads_onto_the_device(tmp_path):
    _, model = on_both(CONFIGS["gamma"])
    batches = [on_cuda(tiny.batch([tiny.row(seed=i) for i in range(4)], seed=s)) for s in range(3)]
    calibrate_threshold(model, batches)
    model.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path, device_map="cuda", dtype=torch.float32)
    assert mod_config(loaded) == mod_config(model)
    with torch.no_grad():
        assert torch.equal(loaded(**batches[0]).logits, model(**batches[0]).logits)


def waits(model, batches):
    """Where forwards on one cache make the host wait for the device, forward by forward."""
    places, past = [], None
    for batch in batches:
        with warnings.catch_warnings(record=True) as caught, torch.no_grad():
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                past = model(**batch, past_key_values=past, use_cache=True).past_key_values
            finally:
                torch.cuda.set_sync_debug_mode("default")
        caught = [warning for warning in caught if "synchronizing" in str(warning.message)]
        places.append([f"{Path(warning.filename).name}:{warning.lineno}" for warning in caught])
    return places


@pytest.mark.parametrize("name", ["gamma", "p_mod"])
def test_the_host_waits_for_counts_and_for_the_check_of_scores_alone(name):
    dense = tiny.llama().cuda()
    dense.config.image_token_id = tiny.IMAGE_TOKEN
    config = replace(CONFIGS[name], inference="topk")  # a threshold waits for each layer's count
    mod = tiny.randomize_routers(convert(copy.deepcopy(dense), config))
    prompt = on_cuda(tiny.batch([tiny.row(), tiny.row(images=2)], side="left"))
    del prompt["pixel_values"]
    mask = torch.nn.functional.pad(prompt["attention_mask"], (0, 1), value=1)
    token = {"input_ids": prompt["input_ids"][:, -1:], "attention_mask": mask}
    kinds = prompt.pop("token_kinds")
    of_dense = waits(dense, [prompt, token])
    answer = torch.full_like(token["input_ids"], 4)
    of_mod = waits(mod, [prompt | {"token_kinds": kinds}, token | {"token_kinds": answer}])
    added = [
        list((Counter(o) - Counter(t)).elements()) for o, t in zip(of_mod, of_dense, strict=True)
    ]
    assert [len(places) for places in added] == [2, 1], added
