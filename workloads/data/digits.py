"""digits-vqa: real handwritten digits as a LLaVA-format dataset, for runs that need no download."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from workloads.data.questions import QUESTION_KINDS, ask
from workloads.data.records import IMAGE_MARK, Conversation, Turn, write_llava
from workloads.data.scenes import Scene, Split, digit_pool, draw_scene

_SPLITS: tuple[Split, ...] = ("train", "eval")


def build_digits_vqa(
    root: Path, *, seed: int, train_scenes: int, eval_scenes: int, questions_per_scene: int
) -> None:
    """Write ``train.json``, ``eval.json`` and ``images/*.png`` below ``root``.

    Every question is a record of its own, with its kind in ``tags``; kinds take turns, so each
    has its equal share. The same arguments give the same bytes, fewer scenes give a prefix of
    more, and no handwritten digit is shown in both splits, whatever the seed.

    Args:
        root: A folder; created if need be.
        seed: Seed of scenes and questions.
        train_scenes: Scenes to train on, at least 1.
        eval_scenes: Held-out scenes, at least 1.
        questions_per_scene: Records per scene, at least 1.

    Raises:
        ValueError: If a count is not positive or the seed is negative.
    """
    counts = {"train": train_scenes, "eval": eval_scenes}
    for name, value in {**counts, "questions per scene": questions_per_scene}.items():
        if value < 1:
            raise ValueError(f"expected at least 1 for {name}, got {value}")
    if seed < 0:
        raise ValueError(f"expected a seed of 0 or more, got {seed}")
    (root / "images").mkdir(parents=True, exist_ok=True)
    for split in _SPLITS:
        records: list[Conversation] = []
        for index in range(counts[split]):
            rng = np.random.default_rng([seed, _SPLITS.index(split), index])
            scene = draw_scene(digit_pool(split), rng)
            name = f"{split}-{index:05d}"
            scene.image.save(root / "images" / f"{name}.png")
            records += _questions(scene, name, index, questions_per_scene, rng)
        write_llava(records, root / f"{split}.json")


def _questions(
    scene: Scene, name: str, index: int, count: int, rng: np.random.Generator
) -> Iterator[Conversation]:
    for number in range(index * count, (index + 1) * count):
        question = ask(scene, QUESTION_KINDS[number % len(QUESTION_KINDS)], rng)
        yield Conversation(
            id=f"{name}-{number % count}",
            images=(f"images/{name}.png",),
            turns=(Turn("human", f"{IMAGE_MARK}\n{question.text}"), Turn("gpt", question.answer)),
            tags={"kind": question.kind},
        )
