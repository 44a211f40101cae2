"""Second part: projector and language model learn to answer questions about scenes."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from workloads.data import Encoder, Sample
from workloads.data.collate import IGNORED_LABEL
from workloads.data.questions import QUESTION_KINDS, Question, ask
from workloads.data.scenes import Scene
from workloads.pretraining.optimizer import Optimizer
from workloads.pretraining.packing import Packer, to_sample
from workloads.pretraining.recipe import PretrainingRecipe
from workloads.pretraining.vision import ToPixels
from workloads.reporting import Reporter

_REPORT_EVERY = 50
_EVALUATION_BATCH = 64

# Reading a place and adding up a row are learned last, so they are asked about most.
_ASKED = ("place", "presence", "row_sum", "count", "place", "row_sum", "presence", "place")


def teach_answers(
    model: PreTrainedModel,
    encoder: Encoder,
    to_pixels: ToPixels,
    scenes: Sequence[Scene],
    recipe: PretrainingRecipe,
    reporter: Reporter,
) -> None:
    """Train all weights that require a gradient."""
    rng = np.random.default_rng([recipe.seed, 2])
    steps = recipe.answer_steps
    packer = Packer(encoder)
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
        batch = packer.pack(shown, [_questions(scene, rng) for scene in shown])
        losses.append(optimizer.step(model(pixel_values=to_pixels(shown), **batch).loss))
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


def _questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    return [ask(scene, kind, rng) for kind in _ASKED]
