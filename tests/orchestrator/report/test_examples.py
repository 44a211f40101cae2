import numpy as np
import pytest
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from orchestrator.report.examples import make_examples, pick
from workloads.data import Sample, Turn
from workloads.mod import mod_config


def predictions(*tags: str, wrong: int | None = None) -> list[dict[str, object]]:
    return [
        {
            "id": str(index),
            "tag": tag,
            "expected": "3",
            "answer": "3",
            "is_correct": index != wrong,
        }
        for index, tag in enumerate(tags)
    ]


def test_each_kind_is_shown_with_another_image_first() -> None:
    items = predictions("place", "count", "place", "count", "place", "count")
    assert pick(items, items, 2) == [0, 3]
    assert sorted(pick(items, items, 6)) == [0, 1, 2, 3, 4, 5]


def test_a_wrong_answer_is_shown_if_there_is_one() -> None:
    items = predictions("place", "place", "place", "place", wrong=3)
    assert pick(items, items, 2) == [0, 3]


@pytest.mark.parametrize("items", [[], predictions("place")])
def test_fewer_predictions_than_wanted_are_all_shown(items: list[dict[str, object]]) -> None:
    assert len(pick(items, items, 6)) == len(items)


def test_the_picture_is_what_the_model_saw_and_the_patches_are_those_it_skipped(
    converted: tuple[PreTrainedModel, ProcessorMixin],
) -> None:
    model, processor = converted
    layers = mod_config(model).layers
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    turns = (Turn("human", "<image>\nwhich digit is there ?"), Turn("gpt", "3"))
    sample = Sample(id="0", images=(Image.fromarray(pixels),), turns=turns, tags={})

    items = predictions("place")
    (example,) = make_examples(model, processor, [sample], items, items, layers=2)

    assert example.question == "which digit is there ?"
    assert (example.rows, example.columns) == (4, 4)
    assert [view.layer for view in example.layers] == [layers[0], layers[-1]]
    for view in example.layers:
        assert view.share == len(view.skipped) / 16
        assert all(0 <= patch < 16 for patch in view.skipped)
    assert example.image.startswith("data:image/png;base64,")
