import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engines.exchange import Exchange
from orchestrator.engines.job import TrainingJob
from workloads.reporting import SilentReporter
from workloads.training import TrainingConfig


@pytest.mark.parametrize("files", [1, 2])
def test_a_shard_of_one_file_or_several_travels_to_another_machine(
    tmp_path: Path, files: int
) -> None:
    model, shard = tmp_path / "model", tmp_path / "train.arrow"
    model.mkdir()
    (model / "config.json").write_text("{}")
    if files == 1:
        shard.write_bytes(b"0")
    else:
        shard.mkdir()
        for number in range(files):
            (shard / f"train-{number:05d}-of-{files:05d}.arrow").write_bytes(b"0")
    place: Any = None
    job = TrainingJob(
        config=TrainingConfig(steps=1, learning_rate=1.0, trainable=("projector",)),
        model=model,
        shard=shard,
        output=tmp_path / "output",
        checkpoints=place,
        exchange=Exchange(store_url="memory://job", prefix=f"shards-{files}"),
        reporter=SilentReporter(),
        threads=1,
    )
    job.send_inputs()
    shutil.rmtree(model)
    moved = job.on_this_machine(tmp_path / "scratch")
    assert moved.model.joinpath("config.json").exists()
    found = [moved.shard] if moved.shard.is_file() else list(moved.shard.iterdir())
    assert len(found) == files
