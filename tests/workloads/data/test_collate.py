import pytest
import torch

from workloads.data.collate import Encoded, collate
from workloads.kinds import TokenKind


def encoded(length: int, images: int = 0) -> Encoded:
    row = {
        "input_ids": torch.arange(1, length + 1),
        "attention_mask": torch.ones(length, dtype=torch.int64),
        "token_kinds": torch.full((length,), int(TokenKind.QUESTION)),
        "labels": torch.full((length,), 7),
    }
    return row | ({"pixel_values": torch.full((images, 3, 2, 2), float(length))} if images else {})


def test_pads_on_the_right_to_train() -> None:
    batch = collate([encoded(2), encoded(3)], pad_token_id=9)
    assert batch["input_ids"].tolist() == [[1, 2, 9], [1, 2, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[7, 7, -100], [7, 7, 7]]
    assert batch["token_kinds"].tolist() == [[3, 3, 0], [3, 3, 3]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_pads_on_the_left_to_generate() -> None:
    batch = collate([encoded(2), encoded(3)], pad_token_id=9, side="left")
    assert batch["input_ids"].tolist() == [[9, 1, 2], [1, 2, 3]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]


def test_joins_the_images_of_all_rows_in_order() -> None:
    batch = collate([encoded(2, images=1), encoded(3), encoded(4, images=2)], pad_token_id=9)
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [2.0, 4.0, 4.0]


def test_a_batch_without_images_has_no_pixel_values() -> None:
    assert "pixel_values" not in collate([encoded(2)], pad_token_id=9)


def test_refuses_nothing_and_mixtures() -> None:
    with pytest.raises(ValueError, match="at least one"):
        collate([], pad_token_id=9)
    prompt = {name: value for name, value in encoded(2).items() if name != "labels"}
    with pytest.raises(ValueError, match=r"sample 1 has .*expected .*'labels'"):
        collate([encoded(2), prompt], pad_token_id=9)
