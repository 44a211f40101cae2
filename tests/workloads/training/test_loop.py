import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from orchestrator.durable import open_store
from tests.workloads.training.tiny import (
    FakeBatches,
    Listener,
    NoCheckpoints,
    PromptCheckpoints,
    tiny_llava,
)
from workloads.training import (
    Ranks,
    TorchEngine,
    TrainingConfig,
    TrainingError,
    TrainingResult,
    choose_parts,
    train,
)

EVERYTHING = ("projector", "vision_tower", "language_model")


class KilledError(Exception):
    """Stands for the end of the process."""


class DyingBatches(FakeBatches):
    """Batches that kill the training at one step."""

    dies_at = 10**9

    def at(self, step: int) -> list[dict[str, Tensor]]:
        if step == self.dies_at:
            raise KilledError
        return super().at(step)


def a_config(**changes: Any) -> TrainingConfig:
    defaults: dict[str, Any] = {
        "steps": 6, "learning_rate": 3e-3, "trainable": EVERYTHING, "global_batch": 4,
        "weight_decay": 0.1, "warmup_ratio": 0.2, "checkpoint_every": 2,
    }  # fmt: skip
    return TrainingConfig(**{**defaults, **changes})


def train_tiny(
    config: TrainingConfig,
    *,
    batches: FakeBatches | None = None,
    listener: Listener | None = None,
    store: Path | None = None,
    writer: str = "first",
) -> tuple[dict[str, Tensor], TrainingResult]:
    model = tiny_llava()
    choose_parts(model, config.trainable)
    engine = TorchEngine(model, config)
    listener = listener or Listener()
    checkpoints: Any = NoCheckpoints()
    if store is not None:
        checkpoints = PromptCheckpoints(
            objects=open_store(str(store)),
            prefix="training",
            writer=writer,
            ranks=Ranks(),
            warn=listener.message,
        )
    result = train(
        engine, batches or FakeBatches(), config, reporter=listener, checkpoints=checkpoints
    )
    weights = engine.full_weights()
    assert weights is not None
    return weights, result


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different


def test_the_loss_falls_and_every_step_is_in_the_history() -> None:
    class OneBatch(FakeBatches):
        def at(self, step: int) -> list[dict[str, Tensor]]:
            return super().at(0)

    _, result = train_tiny(a_config(steps=20, learning_rate=1e-2), batches=OneBatch())
    assert [point["step"] for point in result.history] == list(range(1, 21))
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]
    assert result.history[0].keys() == {"step", "loss", "lm_loss", "learning_rate", "grad_norm"}


def test_frozen_parts_do_not_move() -> None:
    before = tiny_llava().state_dict()
    after, _ = train_tiny(a_config(trainable=("projector",), weight_decay=0.1))
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == {name for name in after if "multi_modal_projector" in name}


@pytest.mark.parametrize("micro", [1, 2])
def test_micro_batches_change_the_loss_and_weights_by_rounding_only(micro: int) -> None:
    whole, one = train_tiny(a_config(), batches=FakeBatches(micro_batch=4))
    parts, many = train_tiny(a_config(), batches=FakeBatches(micro_batch=micro))
    for left, right in zip(one.history, many.history, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-5)
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, atol=2e-5, rtol=1e-4)


def test_a_micro_batch_without_answers_beside_one_with_answers_is_fine() -> None:
    class OneAnswer(FakeBatches):
        def at(self, step: int) -> list[dict[str, Tensor]]:
            first, second = super().at(step)
            second["labels"].fill_(-100)
            return [first, second]

    _, result = train_tiny(a_config(), batches=OneAnswer())
    assert len(result.history) == 6


def test_a_global_batch_without_answers_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"step 1: no sample .* answer token"):
        train_tiny(a_config(), batches=FakeBatches(answers=0))


@pytest.mark.parametrize("deaths", [(1,), (3,), (5,), (2, 3, 5)])
def test_a_killed_training_ends_with_the_same_bits(tmp_path: Path, deaths: tuple[int, ...]) -> None:
    undisturbed, whole = train_tiny(a_config())
    for number, step in enumerate(deaths):
        batches = DyingBatches()
        batches.dies_at = step
        with pytest.raises(KilledError):
            train_tiny(a_config(), batches=batches, store=tmp_path, writer=f"try-{number}")
    torch.rand(7), np.random.rand(3), random.random()
    weights, result = train_tiny(a_config(), store=tmp_path, writer="try-last")
    assert_same(undisturbed, weights)
    assert result.history == whole.history
    assert result.resumed_at == deaths[-1] // 2 * 2


def test_random_numbers_continue_after_a_resume(tmp_path: Path) -> None:
    class Noisy(DyingBatches):
        def at(self, step: int) -> list[dict[str, Tensor]]:
            batches = super().at(step)
            noise = random.random() + np.random.standard_normal() + float(torch.rand(()))
            for batch in batches:
                batch["pixel_values"] += noise
            return batches

    undisturbed, _ = train_tiny(a_config(), batches=Noisy())
    dying = Noisy()
    dying.dies_at = 5
    with pytest.raises(KilledError):
        train_tiny(a_config(), batches=dying, store=tmp_path)
    weights, _ = train_tiny(a_config(), batches=Noisy(), store=tmp_path, writer="second")
    assert_same(undisturbed, weights)


def test_an_input_that_is_not_finite_stops_with_the_step_and_the_samples(tmp_path: Path) -> None:
    class Broken(FakeBatches):
        def at(self, step: int) -> list[dict[str, Tensor]]:
            batches = super().at(step)
            if step == 3:
                batches[0]["pixel_values"].fill_(torch.nan)
            return batches

    with pytest.raises(TrainingError, match=r"step 4: an input .* sample-12"):
        train_tiny(a_config(), batches=Broken(), store=tmp_path)
    weights, result = train_tiny(a_config(), store=tmp_path, writer="second")
    assert result.resumed_at == 2
    assert all(bool(weight.isfinite().all()) for weight in weights.values())


def test_reports_come_every_few_steps_and_at_the_end() -> None:
    listener = Listener()
    _, result = train_tiny(a_config(), listener=listener)
    assert listener.done == [0, 5, 6]
    assert listener.points[6]["loss"] == result.history[-1]["loss"]


def test_what_was_reported_before_a_kill_is_in_the_result(tmp_path: Path) -> None:
    batches, listener = DyingBatches(), Listener()
    batches.dies_at = 7
    config = a_config(steps=8)
    with pytest.raises(KilledError):
        train_tiny(config, batches=batches, store=tmp_path, listener=listener)
    _, result = train_tiny(config, store=tmp_path, writer="second")
    first, last = result.signals
    assert (first["step"], last["step"]) == (5, 8)
    heard = {name: value for name, value in listener.points[5].items() if "signal/" in name}
    assert heard == {name: value for name, value in first.items() if name != "step"}


def test_bf16_trains_close_to_fp32() -> None:
    _, exact = train_tiny(a_config())
    _, coarse = train_tiny(a_config(precision="bf16"))
    assert coarse.history[-1]["loss"] == pytest.approx(exact.history[-1]["loss"], rel=0.02)
    assert coarse.history[-1]["loss"] != exact.history[-1]["loss"]


class Remembering(DyingBatches):
    """Batches that remember which steps they were asked for."""

    def __init__(self, dies_at: int = 10**9) -> None:
        super().__init__()
        self.dies_at, self.asked = dies_at, []

    def at(self, step: int) -> list[dict[str, Tensor]]:
        batches = super().at(step)
        self.asked.append(step)
        return batches

    def save(self, folder: Path) -> None:
        (folder / "asked.json").write_text(json.dumps(self.asked))

    def load(self, folder: Path) -> None:
        self.asked = json.loads((folder / "asked.json").read_text())


def test_what_batches_found_out_comes_back_with_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        train_tiny(a_config(), batches=Remembering(dies_at=5), store=tmp_path)
    batches = Remembering()
    train_tiny(a_config(), batches=batches, store=tmp_path, writer="second")
    assert batches.asked == list(range(6))
