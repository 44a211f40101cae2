import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration

from workloads.data import Encoder, Sample, Turn
from workloads.data.scenes import digit_pool, draw_scene
from workloads.kinds import TokenKind
from workloads.models import ModelError, load_model, resolve_model
from workloads.pretraining.pretrain import folder_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(resolve_model("digits"), tmp_path / "model"))


def test_the_embedded_model_is_what_its_recipe_says() -> None:
    folder = resolve_model("digits")
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["sha256"] == folder_digest(folder)
    assert recipe["results"]["held_out_answers"]["all"] > 0.95
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8_000_000


def test_loads_the_embedded_model_ready_to_answer() -> None:
    model, processor = load_model("digits")
    assert isinstance(model, LlavaForConditionalGeneration)
    assert not model.training
    assert model.config.text_config.num_hidden_layers >= 8
    assert model.get_input_embeddings().num_embeddings == len(processor.tokenizer)


def test_an_image_is_most_of_the_embedded_models_sequence() -> None:
    model, processor = load_model("digits")
    scene = draw_scene(digit_pool("eval"), np.random.default_rng(0))
    turns = (Turn("human", "<image>\nWhich digit is in cell K?"), Turn("gpt", "7"))
    batch = Encoder(processor).training_batch([Sample("s", (scene.image,), turns, {})])
    kinds = batch.pop("token_kinds")
    assert (kinds == TokenKind.IMAGE).float().mean() > 0.75
    with torch.no_grad():
        assert torch.isfinite(model(**batch).loss)


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def add_a_layer(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] += 1
    (folder / "config.json").write_text(json.dumps(config))


def mark_as_converted(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mod": {"layers": [1]}}))


def break_configuration(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def remove_processor(folder: Path) -> None:
    for path in [*folder.glob("*processor*"), *folder.glob("tokenizer*")]:
        path.unlink()


def make_text_only(folder: Path) -> None:
    shutil.rmtree(folder)
    config = LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove_weights, "its weights cannot be loaded"),
        (cut_weights, "its weights cannot be loaded"),
        (add_a_layer, "weights do not fit its config.json.*layers.8"),
        (mark_as_converted, r"converted to Mixture-of-Depths.*workloads\.mod\.load_pretrained"),
        (break_configuration, "its configuration cannot be loaded"),
        (remove_processor, "processor"),
        (make_text_only, "'llama' is no image-text model"),
    ],
)
def test_says_what_is_wrong_with_a_folder(
    damage: Callable[[Path], None], reason: str, folder: Path
) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=reason):
        load_model(folder)
