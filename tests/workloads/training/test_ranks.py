from pathlib import Path

import pytest
import torch

from tests.workloads.training.tiny import (
    FakeBatches,
    Listener,
    NoCheckpoints,
    blank_image,
    collate,
    run_on_ranks,
    sample,
    tiny_llava,
)
from workloads.training import (
    Ranks,
    TorchEngine,
    TrainingConfig,
    blank_image_for_text,
    choose_parts,
    train,
)

CONFIG = TrainingConfig(
    steps=3,
    learning_rate=3e-3,
    weight_decay=0.1,
    global_batch=4,
    trainable=("projector", "vision_tower", "language_model"),
)


def train_and_keep(folder: str, only_text_on: int | None) -> None:
    ranks = Ranks.current()
    model = tiny_llava()
    choose_parts(model, CONFIG.trainable)
    engine = TorchEngine(model, CONFIG, ranks=ranks)
    batches = FakeBatches(
        rank=ranks.rank, size=ranks.size, micro_batch=1, only_text_on=only_text_on
    )
    with blank_image_for_text(model, blank_image()):
        result = train(engine, batches, CONFIG, reporter=Listener(), checkpoints=NoCheckpoints())
    weights = engine.full_weights()
    assert (weights is not None) == ranks.is_first
    if weights is not None:
        losses = [point["loss"] for point in result.history]
        torch.save({"weights": weights, "losses": losses}, f"{folder}/{ranks.size}.pt")


@pytest.mark.distributed
def test_two_ranks_agree_with_one(tmp_path: Path) -> None:
    run_on_ranks(train_and_keep, 2, tmp_path, str(tmp_path), None)
    train_and_keep(str(tmp_path), None)
    one, two = (torch.load(tmp_path / f"{size}.pt", weights_only=True) for size in (1, 2))
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, atol=2e-5, rtol=1e-4)


def test_a_blank_image_changes_no_loss_and_reaches_every_image_weight() -> None:
    model = tiny_llava()
    batch = collate([sample(number, has_image=False) for number in range(2)])
    batch.pop("token_kinds")
    plain = model(**batch).loss
    with blank_image_for_text(model, blank_image()):
        model(**batch).loss.backward()
        assert torch.equal(model(**batch).loss, plain)
    projector = model.model.multi_modal_projector
    assert all(not bool(weight.grad.any()) for weight in projector.parameters())
    assert model.model.vision_tower.embeddings.patch_embedding.weight.grad is not None
    assert torch.equal(model(**batch).loss, plain)


def test_a_batch_with_images_is_left_alone() -> None:
    model = tiny_llava()
    batch = collate([sample(number) for number in range(2)])
    batch.pop("token_kinds")
    plain = model(**batch).loss
    with blank_image_for_text(model, {"pixel_values": torch.full((1, 3, 8, 8), torch.nan)}):
        assert torch.equal(model(**batch).loss, plain)
