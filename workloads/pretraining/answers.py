"""Second part: projector and language model learn to answer questions about scenes."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import LlavaProcessor, PreTrainedModel

from workloads.data import Encoder, Sample
from workloads.data.collate import IGNORED_LABEL
from workloads.data.questions import QUESTION_KINDS, ask
from workloads.data.scenes import Scene
from workloads.kinds import TokenKind
from workloads.pretraining.image_tokens import ImageTokenLoss
from workloads.pretraining.lists import lists_about
from workloads.pretraining.optimizer import Optimizer
from workloads.pretraining.packing import Lesson, Packer, to_sample
from workloads.pretraining.recipe import PretrainingRecipe
from workloads.pretraining.vision import ToPixels
from workloads.reporting import Reporter

_REPORT_EVERY = 25
_EVALUATION_BATCH = 64
_IMAGE_TOKEN_WEIGHT = 0.3

# Reading a place and adding up a row are learned last, so they are asked about most.
_WITHOUT_LISTS = (*QUESTION_KINDS, *QUESTION_KINDS, "place", "row_sum")


def teach_answers(
    model: PreTrainedModel,
    processor: LlavaProcessor,
    to_pixels: ToPixels,
    scenes: Sequence[Scene],
    recipe: PretrainingRecipe,
    reporter: Reporter,
) -> None:
    """Train all weights that require a gradient: first with lists, then on questions alone."""
    rng = np.random.default_rng([recipe.seed, 2])
    architecture, steps = recipe.architecture, recipe.answer_steps
    encoder = Encoder(processor)

    def tokenize(text: str) -> list[int]:
        return list(processor.tokenizer.encode(text, add_special_tokens=False))

    packer = Packer(encoder, tokenize)
    side = architecture.image_pixels // architecture.patch_pixels
    image_token_loss = ImageTokenLoss(tokenize, side)
    is_image = _image_positions(encoder, scenes[0], rng)
    optimizer = Optimizer(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        recipe,
        learning_rate=recipe.answer_learning_rate,
        steps=steps,
    )
    model.train()
    losses: list[float] = []
    for step in range(1, steps + 1):
        shown = [scenes[index] for index in rng.integers(len(scenes), size=recipe.answer_batch)]
        with_lists = step <= recipe.list_steps
        batch = packer.pack([_lesson(scene, with_lists, rng) for scene in shown])
        outputs = model(pixel_values=to_pixels(shown), **batch)
        loss = outputs.loss
        losses.append(loss.item())
        if with_lists:
            loss = loss + _IMAGE_TOKEN_WEIGHT * image_token_loss(outputs.logits[:, is_image], shown)
        optimizer.step(loss)
        if step % _REPORT_EVERY == 0 or step == steps:
            reporter.metrics(step, {"answers_loss": float(np.mean(losses[-_REPORT_EVERY:]))})
            reporter.progress(step, steps, note="language model")


def held_out_questions(scenes: Sequence[Scene], seed: int) -> list[Sample]:
    """One question of every kind about every scene."""
    rng = np.random.default_rng([seed, 3])
    return [
        to_sample(scene, ask(scene, kind, rng), name=f"{index}-{kind}")
        for index, scene in enumerate(scenes)
        for kind in QUESTION_KINDS
    ]


@torch.no_grad()
def share_answered(
    model: PreTrainedModel, encoder: Encoder, samples: Sequence[Sample]
) -> dict[str, float]:
    """Share of right answers by kind and of ``all``: every answer token has to be the likeliest."""
    model.train(mode=False)
    right: dict[str, list[bool]] = {}
    for start in range(0, len(samples), _EVALUATION_BATCH):
        part = samples[start : start + _EVALUATION_BATCH]
        batch = encoder.training_batch(part)
        labels = batch.pop("labels")[:, 1:]
        del batch["token_kinds"]
        likeliest = model(**batch).logits[:, :-1].argmax(dim=-1)
        is_right = ((likeliest == labels) | (labels == IGNORED_LABEL)).all(dim=1)
        for sample, value in zip(part, is_right.tolist(), strict=True):
            right.setdefault(sample.tags["kind"], []).append(value)
    shares = {kind: float(np.mean(values)) for kind, values in right.items()}
    return shares | {"all": float(np.mean([value for kind in right.values() for value in kind]))}


def _lesson(scene: Scene, with_lists: bool, rng: np.random.Generator) -> Lesson:
    kinds = QUESTION_KINDS if with_lists else _WITHOUT_LISTS
    questions = [ask(scene, kind, rng) for kind in kinds]
    return Lesson(scene, questions, lists_about(scene, rng) if with_lists else ())


def _image_positions(encoder: Encoder, scene: Scene, rng: np.random.Generator) -> torch.Tensor:
    """Where every packed row has its image tokens, which stand before anything that differs."""
    kinds = encoder.training(to_sample(scene, ask(scene, "count", rng)))["token_kinds"]
    return (kinds == TokenKind.IMAGE).nonzero().flatten()
