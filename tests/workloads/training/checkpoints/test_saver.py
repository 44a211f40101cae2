"""What ranks agree on at every step: to save in time, at a notice, and to stop."""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.durable import open_store
from tests.workloads.training.test_loop import EVERYTHING, a_config, assert_same
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
    TorchEngine,
    TrainingConfig,
    TrainingResult,
    TrainingStoppedError,
    choose_parts,
    train,
)
from workloads.training.checkpoints import saver


def train_with(
    config: TrainingConfig, store: Path, listener: Listener | None = None, **options: Any
) -> tuple[dict[str, torch.Tensor], TrainingResult]:
    ranks = Ranks.current()
    model = tiny_llava()
    choose_parts(model, config.trainable)
    listener = listener or Listener()
    checkpoints = PromptCheckpoints(
        objects=open_store(str(store)), prefix="t", writer="w", ranks=ranks, warn=listener.message
    )
    result = train(
        TorchEngine(model, config, ranks=ranks),
        FakeBatches(rank=ranks.rank, size=ranks.size),
        config,
        reporter=listener,
        checkpoints=checkpoints,
        **options,
    )
    return {name: weight.detach() for name, weight in model.state_dict().items()}, result


def kept_steps(store: Path) -> list[int]:
    return sorted(int(path.parent.name[:9]) for path in store.glob("t/w/*/manifest.json"))


def test_a_training_stops_in_time_and_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    config = a_config(checkpoint_every=100)
    undisturbed, whole = train_with(config, tmp_path / "undisturbed")
    with pytest.raises(TrainingStoppedError, match="step 1: the time is up; its state has been"):
        train_with(config, tmp_path / "stopped", stop_at_s=time.time())
    assert kept_steps(tmp_path / "stopped") == [1]
    weights, result = train_with(config, tmp_path / "stopped", stop_at_s=time.time() + 600.0)
    assert result.resumed_at == 1
    assert result.history == whole.history
    assert_same(undisturbed, weights)


def stop_on_two_ranks(folder: str) -> None:
    """Only rank 0's clock says that the time is up."""
    is_first = Ranks.current().is_first
    config = a_config(checkpoint_every="1h")
    stop_at_s = time.time() if is_first else time.time() + 600.0
    with pytest.raises(TrainingStoppedError):
        train_with(config, Path(folder), stop_at_s=stop_at_s)
    assert kept_steps(Path(folder)) == [1]


def test_all_ranks_stop_together(tmp_path: Path) -> None:
    run_on_ranks(stop_on_two_ranks, 2, tmp_path, str(tmp_path / "store"))


def test_a_notice_is_heeded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saver, "_LOOK_S", 0.0)
    listener = Listener()
    notices = iter([None, "node 7 goes", "node 7 goes", "node 8 goes", None])
    config = a_config(checkpoint_every=100)
    train_with(config, tmp_path, listener, notice=lambda: next(notices))
    assert kept_steps(tmp_path) == [2, 4]
    told = [text for text in listener.messages if "at once" in text]
    assert told == [f"saving a checkpoint at once: node {number} goes" for number in (7, 8)]


def test_checkpoints_can_be_some_time_apart(tmp_path: Path) -> None:
    train_with(a_config(checkpoint_every="0.000001s"), tmp_path)
    assert kept_steps(tmp_path) == [4, 5]


def test_the_time_to_the_next_checkpoint_is_a_signal(tmp_path: Path) -> None:
    listener = Listener()
    train_with(a_config(checkpoint_every="1h"), tmp_path, listener)
    assert 3000.0 < listener.points[5]["signal/next_checkpoint_s"] <= 3600.0


class Refusing:
    """A store's objects that take no files."""

    def __init__(self, store: Path) -> None:
        self._objects = open_store(str(store))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    def upload(self, local: Path, path: str) -> Any:
        raise OSError(28, "No space left on device")


def train_without_room(store: Path, listener: Listener, **guards: Any) -> TrainingResult:
    config = a_config(guards=Guards(**guards))
    model = tiny_llava()
    choose_parts(model, EVERYTHING)
    checkpoints = PromptCheckpoints(
        objects=Refusing(store), prefix="t", writer="w", ranks=Ranks(), warn=listener.message
    )
    return train(
        TorchEngine(model, config),
        FakeBatches(),
        config,
        reporter=listener,
        checkpoints=checkpoints,
    )


def test_a_training_goes_on_without_the_checkpoints_that_cannot_be_kept(tmp_path: Path) -> None:
    listener = Listener()
    result = train_without_room(tmp_path, listener)
    assert len(result.history) == 6
    told = [text for text in listener.messages if "could not be kept" in text]
    assert [text.split(":")[0] for text in told] == [
        "the checkpoint of step 2 could not be kept",
        "the checkpoint of step 4 could not be kept",
    ]
    assert "No space left" in told[0]


def test_a_checkpoint_that_a_rollback_would_need_must_be_kept(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"step 0 could not be kept.* a rollback"):
        train_without_room(tmp_path, Listener(), spike="rollback")


def test_a_checkpoint_at_once_leaves_the_one_that_a_rollback_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saver, "_LOOK_S", 0.0)
    notices = iter([None, None, "node 1 goes", "node 2 goes", "node 3 goes"])
    config = a_config(checkpoint_every=2, guards=Guards(spike="rollback"))
    config = replace(config, steps=6, checkpoint_every=3)
    train_with(config, tmp_path, notice=lambda: next(notices))
    assert kept_steps(tmp_path) == [3, 4, 5]


def test_a_training_that_never_stepped_starts_from_its_first_checkpoint(tmp_path: Path) -> None:
    config = a_config(guards=Guards(spike="rollback"), checkpoint_every=100)
    undisturbed, _ = train_with(config, tmp_path / "undisturbed")
    with pytest.raises(TrainingStoppedError):
        train_with(config, tmp_path / "stopped", stop_at_s=time.time())
    newest = max((tmp_path / "stopped" / "t" / "w").glob("000000001-*"))
    shutil.rmtree(newest)
    weights, result = train_with(config, tmp_path / "stopped")
    assert result.resumed_at == 0
    assert_same(undisturbed, weights)
