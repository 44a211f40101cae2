"""The loop from the command line, alone and under torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.orchestrator.small_llava import small_llava
from workloads.data import build_digits_vqa, read_llava, write_shard
from workloads.mod import MoDConfig, convert
from workloads.model_folder import open_model_folder, save_model_folder
from workloads.training.__main__ import main

FIELDS: dict[str, Any] = {
    "steps": 4,
    "learning_rate": 1e-3,
    "trainable": ["projector", "language_model", "router"],
    "global_batch": 4,
    "checkpoint_every": 2,
    "lora": {"rank": 2},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a converted ``model`` and a ``data.arrow``."""
    root = tmp_path_factory.mktemp("inputs")
    build_digits_vqa(root, seed=0, train_scenes=8, eval_scenes=1, questions_per_scene=2)
    write_shard(read_llava(root / "train.json", root), root, root / "data.arrow")
    model, processor = small_llava(layers=2, patch_pixels=16)
    torch.manual_seed(0)
    convert(model, MoDConfig.gamma(layers=[1], capacity_ratio=0.6))
    save_model_folder(model, processor, root / "model")
    return root


def arguments(inputs: Path, output: Path, **changes: Any) -> list[str]:
    output.mkdir(exist_ok=True)
    config = output / "training.yaml"
    config.write_text(yaml.safe_dump(FIELDS | changes))
    places = {"--model": inputs / "model", "--data": inputs / "data.arrow", "--output": output}
    return [str(config), *(str(text) for place in places.items() for text in place)]


def losses(output: Path) -> list[float]:
    return [point["loss"] for point in json.loads((output / "history.json").read_text())["points"]]


def test_a_training_from_the_command_line_ends_in_an_ordinary_model_folder(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(inputs, tmp_path)) == 0
    model, _ = open_model_folder(tmp_path / "model")
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert len(losses(tmp_path)) == 4
    assert "4 of 4 steps" in capsys.readouterr().out


def test_running_out_of_memory_before_the_first_step_is_explained_too(
    inputs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without_room(*given: Any, **named: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.AdamW, "__init__", without_room)
    assert main(arguments(inputs, tmp_path)) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("out of memory at")
    assert told.endswith("set more workers, all else is set")


def test_one_that_stops_in_time_goes_on_by_the_same_command(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(inputs, tmp_path)
    assert main([*given, "--minutes", "0"]) == 3
    assert "the time is up" in capsys.readouterr().err
    assert main(given) == 0
    assert "continuing after step 1 of 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"rate": 1}, "unexpected keyword argument 'rate'"),
        ({"checkpoint_every": "often"}, "checkpoint_every must be"),
    ],
)
def test_a_wrong_config_is_told_with_the_usage_exit_code(
    inputs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    reason: str,
) -> None:
    assert main(arguments(inputs, tmp_path, **changes)) == 2
    assert reason in capsys.readouterr().err


def test_what_cannot_be_trained_is_told(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(inputs, tmp_path, trainable=["projector"])
    assert main(given) == 1
    assert "add language_model to `trainable`" in capsys.readouterr().err


@pytest.mark.distributed
def test_two_processes_under_torchrun_see_what_one_sees(inputs: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(arguments(inputs, one)) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command += ["-m", "workloads.training", *arguments(inputs, two)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
