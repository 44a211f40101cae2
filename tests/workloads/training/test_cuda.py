from pathlib import Path

import pytest
import torch

from orchestrator.durable import open_store
from tests.workloads.training.tiny import FakeBatches, Listener, tiny_llava
from workloads.training import (
    Checkpoints,
    Ranks,
    TorchEngine,
    TrainingConfig,
    TrainingResult,
    choose_parts,
    train,
)

pytestmark = pytest.mark.gpu


class KilledError(Exception):
    """Stands for the end of the process."""


class DyingBatches(FakeBatches):
    """Batches that kill the training at step 4."""

    def at(self, step: int) -> list[dict[str, torch.Tensor]]:
        if step == 4:
            raise KilledError
        return super().at(step)


def train_on_device(
    folder: Path, batches: FakeBatches, precision: str
) -> tuple[dict[str, torch.Tensor], TrainingResult]:
    parts = ("projector", "language_model")
    config = TrainingConfig(
        steps=6, learning_rate=3e-3, trainable=parts, global_batch=4, checkpoint_every=2,
        precision=precision,
    )  # fmt: skip
    model = tiny_llava().cuda()
    choose_parts(model, parts)
    engine, listener = TorchEngine(model, config), Listener()
    checkpoints = Checkpoints(
        objects=open_store(str(folder)),
        prefix="t",
        writer="w",
        ranks=Ranks(),
        warn=listener.message,
    )
    result = train(engine, batches, config, reporter=listener, checkpoints=checkpoints)
    weights = engine.full_weights()
    assert weights is not None
    return weights, result


def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed, _ = train_on_device(tmp_path / "undisturbed", FakeBatches(), "fp32")
    with pytest.raises(KilledError):
        train_on_device(tmp_path / "killed", DyingBatches(), "fp32")
    resumed, result = train_on_device(tmp_path / "killed", FakeBatches(), "fp32")
    assert len(result.history) == 6
    assert all(torch.equal(resumed[name], weight) for name, weight in undisturbed.items())
