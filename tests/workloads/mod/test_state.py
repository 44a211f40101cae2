import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration

from tests.workloads.mod import tiny
from workloads.errors import ConversionError
from workloads.mod import (
    MoDConfig,
    convert,
    is_converted,
    load_pretrained,
    mod_config,
    save_pretrained,
)

CONFIGS = {
    "gamma": MoDConfig.gamma(layers=[0, 2], capacity_ratio=0.5, arank_digest="sha256:1"),
    "gamma, unshared": MoDConfig.gamma(layers=[0, 2], shared_router=False),
    "p_mod": MoDConfig.p_mod(tiny.NUM_LAYERS),
}


def converted(name="gamma"):
    return tiny.randomize_routers(convert(tiny.llava(), CONFIGS[name]))


def logits(model):
    with torch.no_grad():
        return model(**tiny.batch(tiny.mixed_rows())).logits


@pytest.fixture
def folder(tmp_path):
    save_pretrained(converted(), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_round_trip_changes_no_logit(tmp_path, name):
    model = converted(name)
    save_pretrained(model, tmp_path / "model")
    loaded = load_pretrained(tmp_path / "model")
    assert mod_config(loaded) == CONFIGS[name]
    assert not loaded.training
    assert torch.equal(logits(loaded), logits(model))


def test_a_folder_holds_safetensors_and_says_what_it_is(folder):
    names = {file.name for file in folder.iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}
    values = json.loads((folder / "config.json").read_text())
    assert MoDConfig.from_json(values["mod"]) == CONFIGS["gamma"]
    assert values["mod"]["arank_digest"] == "sha256:1"
    assert not list(folder.parent.glob(".model-*"))


def test_saving_again_replaces_what_was_there(folder):
    model = converted()
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)
    save_pretrained(model, folder)
    assert torch.equal(logits(load_pretrained(folder)), logits(model))


@pytest.mark.parametrize("loader", [LlavaForConditionalGeneration, AutoModelForImageTextToText])
def test_a_dense_loader_fails_and_names_the_right_call(folder, loader):
    with pytest.raises(ValueError, match=r"load it with workloads.mod.load_pretrained\(path\)"):
        loader.from_pretrained(folder)


def test_transformers_own_saving_guards_the_folder_too(tmp_path):
    converted().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"workloads.mod.load_pretrained"):
        LlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert is_converted(load_pretrained(tmp_path))


def test_the_dense_weights_can_be_had_by_asking(folder):
    dense = load_pretrained(folder, as_dense=True)
    assert type(dense) is LlavaForConditionalGeneration
    assert torch.equal(logits_dense(dense), logits_dense(tiny.llava()))
    assert not hasattr(dense.config, "mod")


def logits_dense(model):
    batch = tiny.batch(tiny.mixed_rows())
    del batch["token_kinds"]
    with torch.no_grad():
        return model(**batch).logits


def test_loads_in_another_type_and_with_another_attention(folder):
    model = load_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager")
    assert model.dtype == torch.bfloat16
    assert model.get_decoder().mod_router.weight.dtype == torch.bfloat16
    assert model.get_decoder().config._attn_implementation == "eager"


def test_a_loaded_model_trains_and_saves_like_the_first(folder, tmp_path):
    model = load_pretrained(folder).train()
    model(**tiny.batch(tiny.mixed_rows(answer=3), labels=True)).loss.backward()
    assert model.get_decoder().mod_router.weight.grad is not None
    save_pretrained(model.eval(), tmp_path / "again")
    assert torch.equal(logits(load_pretrained(tmp_path / "again")), logits(model))


@pytest.mark.slow
def test_a_fresh_process_computes_the_same_logits(folder):
    script = (
        "import sys, torch\n"
        "from tests.workloads.mod import tiny\n"
        "from workloads.mod import load_pretrained\n"
        "with torch.no_grad():\n"
        "    logits = load_pretrained(sys.argv[1])(**tiny.batch(tiny.mixed_rows())).logits\n"
        "torch.save(logits, sys.argv[2])\n"
    )
    output = folder / "logits.pt"
    subprocess.run([sys.executable, "-c", script, folder, output], check=True, timeout=300)
    assert torch.equal(torch.load(output, weights_only=True), logits(load_pretrained(folder)))


class TestRefusals:
    def test_saving_a_dense_model(self, tmp_path):
        with pytest.raises(ConversionError, match="is dense"):
            save_pretrained(tiny.llava(), tmp_path / "model")
        assert not (tmp_path / "model").exists()

    def test_loading_a_dense_folder(self, tmp_path):
        tiny.llava().save_pretrained(tmp_path)
        with pytest.raises(ConversionError, match="holds a dense model"):
            load_pretrained(tmp_path)

    def test_loading_what_is_no_model(self, tmp_path):
        with pytest.raises(ConversionError, match=r"holds no config.json"):
            load_pretrained(tmp_path)

    def test_a_configuration_of_a_newer_version(self, folder):
        rewrite(folder, schema_version=99)
        with pytest.raises(ConversionError, match=r"config.json: .*schema_version 99"):
            load_pretrained(folder)

    def test_weights_that_lack_a_router(self, folder):
        # Layer 1 has no router in the file once routers are no longer shared.
        rewrite(folder, shared_router=False)
        with pytest.raises(ConversionError, match=r"do not fit its config.json.*mod_router"):
            load_pretrained(folder)


def rewrite(folder, **mod):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values["mod"] |= mod
    path.write_text(json.dumps(values))
