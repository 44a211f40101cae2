import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from workloads.data import Encoder
from workloads.data.questions import QUESTION_KINDS, ask
from workloads.data.scenes import digit_pool, draw_scene
from workloads.models import load_model
from workloads.models.architecture import Architecture, build_model
from workloads.models.processor import build_processor, train_tokenizer
from workloads.pretraining.packing import Packer, to_sample
from workloads.pretraining.pretrain import folder_digest, pretrain
from workloads.pretraining.recipe import PretrainingRecipe
from workloads.reporting import SilentReporter

SMALL = Architecture(
    vision_hidden=16, vision_intermediate=16, vision_layers=1, hidden=16, intermediate=16, layers=2
)
RECIPE = PretrainingRecipe(
    architecture=SMALL, scenes=8, vision_steps=2, vision_batch=2, answer_steps=2, answer_batch=2
)


def make(out: Path, recipe: PretrainingRecipe = RECIPE) -> dict[str, object]:
    return pretrain(out, recipe, SilentReporter(), held_out_scenes=2)


def test_the_same_seed_makes_the_same_model(tmp_path: Path) -> None:
    first, same = make(tmp_path / "first"), make(tmp_path / "same")
    other = make(tmp_path / "other", replace(RECIPE, seed=1))
    assert first == same
    assert other["sha256"] != first["sha256"]


def test_writes_a_model_that_loads_with_its_recipe_and_digest(tmp_path: Path) -> None:
    described = make(tmp_path / "model")
    model, processor = load_model(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "recipe.json").read_text()) == described
    assert described["sha256"] == folder_digest(tmp_path / "model")
    assert model.config.text_config.num_hidden_layers == 2
    assert processor.chat_template


def test_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty"):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_packed_questions_have_the_loss_of_single_ones() -> None:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(digit_pool("train"), rng) for _ in range(2)]
    questions = [[ask(scene, kind, rng) for kind in QUESTION_KINDS] for scene in scenes]
    tokenizer = train_tokenizer([q.text for asked in questions for q in asked], 384)
    processor = build_processor(tokenizer, image_pixels=64, patch_pixels=8)
    torch.manual_seed(0)
    model = build_model(SMALL, processor).eval()
    encoder = Encoder(processor)
    singles = encoder.training_batch(
        [
            to_sample(scene, question)
            for scene, asked in zip(scenes, questions, strict=True)
            for question in asked
        ]
    )
    del singles["token_kinds"]
    packed = Packer(encoder).pack(scenes, questions)
    pixel_values = singles["pixel_values"][:: len(QUESTION_KINDS)]
    with torch.no_grad():
        expected = model(**singles).loss
        found = model(pixel_values=pixel_values, **packed).loss
    torch.testing.assert_close(found, expected)
