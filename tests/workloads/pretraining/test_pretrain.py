import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from workloads.data import Encoder
from workloads.data.questions import QUESTION_KINDS, ask
from workloads.data.scenes import CELL_NAMES, Scene, digit_pool, draw_scene
from workloads.models import load_model
from workloads.models.architecture import Architecture, build_model
from workloads.models.processor import build_processor, train_tokenizer
from workloads.pretraining.image_tokens import ImageTokenLoss
from workloads.pretraining.lists import lists_about
from workloads.pretraining.packing import Lesson, Packer, to_sample
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


def test_packed_texts_have_the_loss_of_single_ones() -> None:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(digit_pool("train"), rng) for _ in range(2)]
    lessons = [
        Lesson(scene, [ask(scene, kind, rng) for kind in QUESTION_KINDS]) for scene in scenes
    ]
    tokenizer = train_tokenizer([q.text for lesson in lessons for q in lesson.questions], 384)
    processor = build_processor(tokenizer, image_pixels=64, patch_pixels=8)
    torch.manual_seed(0)
    model = build_model(SMALL, processor).eval()
    encoder = Encoder(processor)
    singles = encoder.training_batch(
        [to_sample(lesson.scene, question) for lesson in lessons for question in lesson.questions]
    )
    del singles["token_kinds"]
    packed = Packer(encoder, tokenizer.encode).pack(lessons)
    pixel_values = singles["pixel_values"][:: len(QUESTION_KINDS)]
    with torch.no_grad():
        expected = model(**singles).loss
        found = model(pixel_values=pixel_values, **packed).loss
    torch.testing.assert_close(found, expected)


def test_lists_name_everything_once() -> None:
    scene = Scene(
        np.zeros((64, 64), np.uint8), np.array([[-1, 7, -1, 5], [-1] * 4, [3] + [-1] * 3, [-1] * 4])
    )
    cells, digits, rows = (
        dict(entries) for entries in lists_about(scene, np.random.default_rng(0))
    )
    assert len(cells) == 16
    assert {name: digit for name, digit in cells.items() if digit != "-"} == {
        " cell B": "7",
        " cell D": "5",
        " cell I": "3",
    }
    assert {name for name, answer in digits.items() if answer == "yes"} == {" 3", " 5", " 7"}
    assert rows == {" row 1": "12", " row 2": "0", " row 3": "3", " row 4": "0"}


def test_image_tokens_that_name_cell_and_digit_cost_least() -> None:
    rng = np.random.default_rng(0)
    scene = draw_scene(digit_pool("train"), rng)
    loss = ImageTokenLoss(lambda text: [ord(text[-1])], patches_per_side=8)
    cell_of_patch = [(row // 2) * 4 + column // 2 for row in range(8) for column in range(8)]
    digits = scene.grid.ravel()[cell_of_patch]
    right = torch.zeros(1, 64, 128)
    for patch, (cell, digit) in enumerate(zip(cell_of_patch, digits, strict=True)):
        right[0, patch, ord(CELL_NAMES[cell])] = 9.0
        right[0, patch, ord("0") + max(digit, 0)] = 9.0
    assert loss(right, [scene]) < loss(right.flip(1), [scene]) < loss(-right, [scene])


def test_lists_are_labelled_where_something_is_read() -> None:
    rng = np.random.default_rng(0)
    scene = draw_scene(digit_pool("train"), rng)
    question = ask(scene, "count", rng)
    tokenizer = train_tokenizer([question.text], 384)
    processor = build_processor(tokenizer, image_pixels=64, patch_pixels=8)
    packer = Packer(Encoder(processor), tokenizer.encode)
    batch = packer.pack([Lesson(scene, [question], [[(" cell A", "7"), (" cell B", "-")]])])
    learned = batch["labels"][0][batch["labels"][0] >= 0]
    assert tokenizer.decode(learned) == f"{question.answer}</s>7-"
