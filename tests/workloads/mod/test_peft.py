"""LoRA and DoRA on a converted model: routers learn beside them and are saved with them."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from tests.workloads.mod import tiny
from workloads.mod import MoDConfig, convert

# peft asks transformers for what it calls by another name since.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

CONFIGS = {
    "shared": MoDConfig.gamma(layers=[1, 2], capacity_ratio=0.5),
    "per layer": MoDConfig.p_mod(tiny.NUM_LAYERS, routable=("system", "image", "question")),
}


def adapted(config, *, use_dora):
    model = convert(tiny.llava(), config)
    adapters = LoraConfig(
        r=2,
        target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)",
        modules_to_save=["mod_router"],
        use_dora=use_dora,
    )
    return get_peft_model(model, adapters)


def learned():
    return tiny.batch([tiny.row(answer=4), tiny.row(answer=3, seed=1)], labels=True)


def trained(model):
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model(**learned()).loss.backward()
        optimizer.step()
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(**tiny.batch(tiny.mixed_rows())).logits


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("name", CONFIGS)
def test_adapters_and_routers_learn_and_come_back_from_disk(name, use_dora, tmp_path):
    model = adapted(CONFIGS[name], use_dora=use_dora)
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert any("lora_" in n for n in learning)
    assert any("mod_router" in n for n in learning)
    assert all("lora_" in n or "mod_router" in n for n in learning)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if n in learning}
    trained(model)
    after = dict(model.named_parameters())
    moved = {n for n in learning if not torch.equal(before[n], after[n])}
    assert any("mod_router" in n for n in moved)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(convert(tiny.llava(), CONFIGS[name]), tmp_path).eval()
    torch.testing.assert_close(logits(again), logits(model))


def test_a_shared_router_stays_one_tensor():
    model = adapted(CONFIGS["shared"], use_dora=False)
    routers = [n for n, p in model.named_parameters() if "mod_router" in n and p.requires_grad]
    assert len(routers) == 1


def test_merged_adapters_leave_a_converted_model():
    model = trained(adapted(CONFIGS["shared"], use_dora=False))
    expected = logits(model)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)
    assert merged.mod_config == CONFIGS["shared"]
