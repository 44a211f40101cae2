import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from workloads.data import QUESTION_KINDS, build_digits_vqa, read_llava
from workloads.data.questions import ask
from workloads.data.scenes import EMPTY, Scene, digit_pool, draw_scene


def build(root: Path, seed: int = 0, train_scenes: int = 3, eval_scenes: int = 2) -> Path:
    build_digits_vqa(
        root, seed=seed, train_scenes=train_scenes, eval_scenes=eval_scenes, questions_per_scene=4
    )
    return root


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def scene_of(*rows: list[int]) -> Scene:
    return Scene(np.zeros((64, 64), np.uint8), np.array(rows))


SCENE = scene_of([-1, 7, -1, 5], [-1] * 4, [3, -1, -1, -1], [-1] * 4)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    first, same, other = (
        build(tmp_path / name, seed) for name, seed in zip("abc", [1, 1, 2], strict=True)
    )
    assert digests(first) == digests(same)
    assert not set(digests(first).values()) & set(digests(other).values())


def test_fewer_scenes_are_a_prefix_of_more(tmp_path: Path) -> None:
    few, more = build(tmp_path / "few"), build(tmp_path / "more", train_scenes=5)
    records = json.loads((few / "train.json").read_text())
    assert json.loads((more / "train.json").read_text())[: len(records)] == records
    assert digests(few)["images/train-00002.png"] == digests(more)["images/train-00002.png"]


def test_goes_through_the_reader_of_user_data(tmp_path: Path) -> None:
    root = build(tmp_path)
    train, held_out = (read_llava(root / f"{name}.json", root) for name in ("train", "eval"))
    assert (len(train), len(held_out)) == (12, 8)
    assert [conversation.tags["kind"] for conversation in train[:4]] == list(QUESTION_KINDS)
    assert {len(conversation.images) for conversation in train} == {1}


def test_no_digit_is_in_both_splits() -> None:
    train, held_out = digit_pool("train"), digit_pool("eval")
    assert len(train.values) + len(held_out.values) == 1797
    assert len(held_out.values) == 450
    # Two of the 1,797 could only coincide if somebody wrote the same digit twice, pixel by pixel.
    assert not {ink.tobytes() for ink in train.ink} & {ink.tobytes() for ink in held_out.ink}


def test_scenes_are_mostly_background() -> None:
    rng = np.random.default_rng(0)
    scenes = [draw_scene(digit_pool("train"), rng) for _ in range(50)]
    written = np.array([np.count_nonzero(scene.grid != EMPTY) for scene in scenes])
    assert written.min() >= 2
    assert written.max() <= 6
    assert max(np.count_nonzero(scene.grid != EMPTY, axis=1).max() for scene in scenes) == 2
    empty = np.concatenate([_cells(scene)[scene.grid.ravel() == EMPTY] for scene in scenes])
    filled = np.concatenate([_cells(scene)[scene.grid.ravel() != EMPTY] for scene in scenes])
    assert filled.min() > empty.max()


def _cells(scene: Scene) -> np.ndarray:
    return scene.pixels.reshape(4, 16, 4, 16).swapaxes(1, 2).reshape(16, 256).mean(axis=1)


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        (
            "place",
            {
                "Which digit is in cell B?": "7",
                "Which digit is in cell D?": "5",
                "Which digit is in cell I?": "3",
            },
        ),
        ("count", {"How many digits are there?": "3"}),
        (
            "presence",
            {f"Is there a {n}?": "yes" if n in (3, 5, 7) else "no" for n in range(10)},
        ),
        (
            "row_sum",
            {
                f"What is the sum of row {n}?": str(total)
                for n, total in enumerate((12, 0, 3, 0), 1)
            },
        ),
    ],
)
def test_every_answer_is_right(kind: str, answers: dict[str, str]) -> None:
    rng = np.random.default_rng(0)
    asked = [ask(SCENE, kind, rng) for _ in range(200)]
    assert {question.text: question.answer for question in asked} == answers


def test_yes_is_as_likely_as_no() -> None:
    rng = np.random.default_rng(0)
    yes = [ask(SCENE, "presence", rng).answer == "yes" for _ in range(400)]
    assert 0.4 < np.mean(yes) < 0.6


@pytest.mark.parametrize(
    "bad", [{"seed": -1}, {"train_scenes": 0}, {"eval_scenes": 0}, {"questions_per_scene": 0}]
)
def test_refuses_sizes_that_make_no_dataset(bad: dict[str, int], tmp_path: Path) -> None:
    sizes = {"seed": 0, "train_scenes": 1, "eval_scenes": 1, "questions_per_scene": 1} | bad
    with pytest.raises(ValueError, match=r"expected .* got (0|-1)"):
        build_digits_vqa(tmp_path / "new", **sizes)
    assert not (tmp_path / "new").exists()
