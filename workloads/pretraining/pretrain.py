"""From nothing to the embedded base model: teach to see, teach to answer, forget the projector."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from workloads.data import Encoder
from workloads.data.questions import QUESTION_KINDS, ask
from workloads.data.scenes import Scene, Split, digit_pool, draw_scene
from workloads.models.architecture import build_model
from workloads.models.processor import build_processor, train_tokenizer
from workloads.pretraining.answers import held_out_questions, share_answered, teach_answers
from workloads.pretraining.recipe import PretrainingRecipe
from workloads.pretraining.vision import CellReader, share_of_digits_read, teach_cells
from workloads.reporting import Reporter

_TOKENIZER_SCENES = 1_500
_PACKAGES = ("numpy", "pillow", "scikit-learn", "tokenizers", "torch", "transformers")


def pretrain(
    out: Path, recipe: PretrainingRecipe, reporter: Reporter, *, held_out_scenes: int = 500
) -> dict[str, Any]:
    """Make the base model and write it to ``out`` as a Hugging Face folder with ``recipe.json``.

    The projector is drawn anew at the end: vision encoder and language model have learned their
    part, and to join them is what stage-1 alignment is for.

    Args:
        out: A folder that is empty or does not exist.
        recipe: What decides the result, apart from hardware and library versions.
        reporter: Told about losses and progress.
        held_out_scenes: Scenes of eval digits to measure on; four questions about each.

    Returns:
        The content of ``recipe.json``.

    Raises:
        FileExistsError: If ``out`` holds files.
    """
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; give a new folder")
    torch.manual_seed(recipe.seed)
    scenes = _scenes("train", recipe.scenes, recipe.seed)
    held_out = _scenes("eval", held_out_scenes, recipe.seed)
    processor = _processor(scenes, recipe)
    model = build_model(recipe.architecture, processor)
    results = _teach(model, processor, scenes, held_out, recipe, reporter)
    forget_projector(model, recipe.architecture.initializer_range)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return _describe(out, recipe, results)


def forget_projector(model: LlavaForConditionalGeneration, deviation: float) -> None:
    """Give the projector new normal weights of this standard deviation, and no bias."""
    for module in model.model.multi_modal_projector.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=deviation)
            nn.init.zeros_(module.bias)


def folder_digest(folder: Path) -> str:
    """SHA-256 over names and contents of a model folder's files, ``recipe.json`` apart."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name != _RECIPE_FILE:
            digest.update(path.name.encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


_RECIPE_FILE = "recipe.json"


def _scenes(split: Split, count: int, seed: int) -> list[Scene]:
    rng = np.random.default_rng([seed, 0 if split == "train" else 4])
    return [draw_scene(digit_pool(split), rng) for _ in range(count)]


def _processor(scenes: list[Scene], recipe: PretrainingRecipe) -> LlavaProcessor:
    rng = np.random.default_rng([recipe.seed, 5])
    asked = [
        ask(scene, kind, rng) for scene in scenes[:_TOKENIZER_SCENES] for kind in QUESTION_KINDS
    ]
    texts = [text for question in asked for text in (question.text, question.answer)]
    return build_processor(
        train_tokenizer(texts, recipe.vocabulary_size),
        image_pixels=recipe.architecture.image_pixels,
        patch_pixels=recipe.architecture.patch_pixels,
    )


def _teach(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    scenes: list[Scene],
    held_out: list[Scene],
    recipe: PretrainingRecipe,
    reporter: Reporter,
) -> dict[str, Any]:
    vision = model.model.vision_tower
    side = recipe.architecture.image_pixels // recipe.architecture.patch_pixels
    reader = CellReader(vision, side)
    to_pixels = partial(_pixels, processor)
    teach_cells(reader, to_pixels, scenes, recipe, reporter)
    read = share_of_digits_read(reader, to_pixels, held_out)
    reporter.message(f"held-out digits read by the vision encoder: {read:.4f}")
    # What it has learned generalises; the questions would only overfit it to the train digits.
    vision.requires_grad_(False)
    encoder = Encoder(processor)
    teach_answers(model, processor, to_pixels, scenes, recipe, reporter)
    vision.requires_grad_(True)
    answered = share_answered(model, encoder, held_out_questions(held_out, recipe.seed))
    reporter.message(f"held-out questions answered before the projector is drawn anew: {answered}")
    return {"held_out_digits_read": read, "held_out_answers": answered}


def _pixels(processor: LlavaProcessor, scenes: Sequence[Scene]) -> Tensor:
    images = [scene.image for scene in scenes]
    pixel_values = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    return pixel_values if isinstance(pixel_values, Tensor) else torch.stack(pixel_values)


def _describe(out: Path, recipe: PretrainingRecipe, results: Mapping[str, Any]) -> dict[str, Any]:
    described = {
        "command": "python -m workloads.pretraining --out DIR",
        "recipe": asdict(recipe),
        "results": dict(results),
        "packages": {name: version(name) for name in _PACKAGES},
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "sha256": folder_digest(out),
    }
    text = json.dumps(described, indent=2, sort_keys=True) + "\n"
    (out / _RECIPE_FILE).write_text(text, encoding="utf-8")
    return described
