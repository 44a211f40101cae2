"""Guards at work in the loop: what a poisoned batch does to the weights, the history, a resume."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from orchestrator.durable import open_store
from tests.workloads.training.poison import ExplodingTorch, Marked, NaNPixel
from tests.workloads.training.tiny import (
    FakeBatches,
    Listener,
    PromptCheckpoints,
    run_on_ranks,
    tiny_llava,
)
from workloads.training import (
    Guards,
    Ranks,
    TrainingConfig,
    TrainingError,
    TrainingResult,
    choose_parts,
    train,
)

SPIKES: dict[str, Any] = {"spike_window": 4, "spike_factor": 50.0}


class KilledError(Exception):
    """Stands for the end of the process."""


def train_tiny(
    store: Path,
    batches: FakeBatches,
    *,
    guards: dict[str, Any],
    listener: Listener | None = None,
    writer: str = "first",
    **changes: Any,
) -> tuple[dict[str, Tensor], TrainingResult]:
    values: dict[str, Any] = {
        "steps": 10, "learning_rate": 3e-3, "trainable": ("projector", "language_model"),
        "global_batch": 4, "checkpoint_every": 5, "warmup_ratio": 0.2,
    }  # fmt: skip
    config = TrainingConfig(**{**values, **changes}, guards=Guards(**SPIKES | guards))
    model = tiny_llava()
    choose_parts(model, config.trainable)
    engine = ExplodingTorch(model, config)
    listener = listener or Listener()
    checkpoints = PromptCheckpoints(
        objects=open_store(str(store)),
        prefix="training",
        writer=writer,
        ranks=Ranks.current(),
        warn=listener.message,
    )
    result = train(engine, batches, config, reporter=listener, checkpoints=checkpoints)
    return {n: w.detach() for n, w in model.state_dict().items()}, result


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.mark.parametrize(
    ("batches", "guard"), [(NaNPixel(), "non_finite"), (Marked(), "spike")], ids=["nan", "spike"]
)
def test_a_skipped_batch_leaves_no_trace_but_an_event(
    tmp_path: Path, batches: FakeBatches, guard: str
) -> None:
    listener = Listener()
    weights, result = train_tiny(tmp_path, batches, guards={guard: "skip"}, listener=listener)
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
    assert [point["step"] for point in result.history] == list(range(1, 11))
    assert [point["step"] for point in result.history if "skipped" in point] == [8]
    (event,) = result.events
    assert (event["step"], event["guard"], event["action"]) == (8, guard, "skip")
    assert event["samples"] == ["sample-28", "sample-29", "sample-30", "sample-31"]
    assert listener.points[8][f"guard/{guard}"] == event["value"]
    assert any("step 8: skip: " in text and "sample-28" in text for text in listener.messages)
    before, after = result.history[6]["loss"], result.history[8]["loss"]
    assert math.isclose(before, after, rel_tol=0.5)


def test_a_spike_is_only_told_by_default(tmp_path: Path) -> None:
    _, result = train_tiny(tmp_path, Marked(), guards={})
    assert [event["action"] for event in result.events] == ["warn"]
    assert result.events[0]["value"] > 50
    assert "skipped" not in result.history[7]


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    class Infinite(ExplodingTorch):
        factor = math.inf

    with pytest.raises(TrainingError, match=r"step 8: loss is inf: lower learning_rate .*0\.003"):
        train_tiny_with(Infinite, tmp_path)


def train_tiny_with(engine: type[ExplodingTorch], store: Path) -> None:
    config = TrainingConfig(
        steps=10, learning_rate=3e-3, trainable=("projector",), global_batch=4, checkpoint_every=5
    )
    model = tiny_llava()
    choose_parts(model, config.trainable)
    checkpoints = PromptCheckpoints(
        objects=open_store(str(store)), prefix="t", writer="w", ranks=Ranks(), warn=print
    )
    train(engine(model, config), Marked(), config, reporter=Listener(), checkpoints=checkpoints)


def test_a_rollback_goes_on_from_the_last_checkpoint_with_a_lower_rate(tmp_path: Path) -> None:
    listener = Listener()
    _, result = train_tiny(
        tmp_path, Marked(), guards={"spike": "rollback"}, listener=listener, schedule="constant"
    )
    rates = [point["learning_rate"] for point in result.history]
    assert rates[2:] == [3e-3] * 3 + [1.5e-3] * 5
    assert [point["step"] for point in result.history if "skipped" in point] == [8]
    assert "back to step 5; rates from 5 on x 0.5" in listener.messages


def test_a_rollback_before_the_first_checkpoint_starts_again(tmp_path: Path) -> None:
    batches = NaNPixel()
    batches.bad = (2,)
    listener = Listener()
    _, result = train_tiny(tmp_path, batches, guards={"non_finite": "rollback"}, listener=listener)
    assert "back to step 0; rates from 0 on x 0.5" in listener.messages
    assert [point["step"] for point in result.history] == list(range(1, 11))


def test_a_batch_after_batch_that_is_bad_ends_the_training(tmp_path: Path) -> None:
    batches = NaNPixel()
    batches.bad = tuple(range(3, 10))
    with pytest.raises(TrainingError, match=r"step 6: .* the 2 batches before were skipped"):
        train_tiny(tmp_path, batches, guards={"non_finite": "skip", "limit": 2})


@pytest.mark.parametrize("action", ["skip", "rollback"])
@pytest.mark.parametrize("deaths", [(7,), (8, 9)])
def test_a_killed_training_takes_the_same_decisions(
    tmp_path: Path, action: str, deaths: tuple[int, ...]
) -> None:
    class Dying(Marked):
        dies_at = 10**9
        bad = (6, 7)

        def at(self, step: int) -> list[dict[str, Tensor]]:
            if step == self.dies_at:
                raise KilledError
            return super().at(step)

    guards = {"spike": action}
    undisturbed, whole = train_tiny(tmp_path / "whole", Dying(), guards=guards)
    for number, step in enumerate(deaths):
        batches = Dying()
        batches.dies_at = step
        with pytest.raises(KilledError):
            train_tiny(tmp_path / "killed", batches, guards=guards, writer=f"try-{number}")
    weights, result = train_tiny(tmp_path / "killed", Dying(), guards=guards, writer="try-9")
    assert_same(undisturbed, weights)
    assert result.history == whole.history
    assert result.events == whole.events
    assert len(result.events) == 2


def decide_together(folder: str) -> None:
    ranks = Ranks.current()
    for kind, guard, action in (
        (NaNPixel, "non_finite", "skip"),
        (Marked, "spike", "rollback"),
    ):
        batches = kind(rank=ranks.rank, size=ranks.size, micro_batch=1)
        weights, result = train_tiny(Path(folder) / action, batches, guards={guard: action})
        assert [event["guard"] for event in result.events] == [guard]
        total = float(torch.cat([weight.flatten() for weight in weights.values()]).double().sum())
        assert ranks.gather(total) == [total] * ranks.size
        assert ranks.gather(result.history) == [result.history] * ranks.size


@pytest.mark.distributed
def test_all_ranks_decide_alike_about_a_batch_that_only_one_of_them_saw(tmp_path: Path) -> None:
    run_on_ranks(decide_together, 2, tmp_path, str(tmp_path))
