import json
import re
from pathlib import Path

import pytest

from orchestrator.cli import ExitCode, main
from tests.workloads.models.test_text import write_tiny_llama
from workloads.arank import read_profile


@pytest.mark.ray
def test_the_verb_measures_chooses_and_explains(
    local_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["arank", "digits", "--data", "digits", "--samples", "3", "--cpus", "0.4"]
    choice = ["--policy", "lowest", "--count", "2", "--mean-capacity", "0.5"]
    assert main([*arguments, *choice, "--out", str(tmp_path), "--json"]) == ExitCode.DONE
    told = json.loads(capsys.readouterr().out)
    assert len(told["selection"]["layers"]) == 2
    assert len(told["selection"]["reasons"]) == told["profile"]["layers"] == 8
    assert sum(told["capacities"].values()) == pytest.approx(1.0)
    assert read_profile(tmp_path).digest == told["profile"]["digest"]
    assert (tmp_path / "arank-task.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.ray
def test_the_verb_ranks_a_text_only_decoder(
    local_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny_llama(tmp_path / "llama")
    turns = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "12"}]
    records = [{"id": str(number), "conversations": turns} for number in range(3)]
    data = tmp_path / "text.json"
    data.write_text(json.dumps(records))
    arguments = ["arank", str(model), "--data", str(data), "--samples", "2", "--cpus", "0.4"]
    capsys.readouterr()  # Saving a model may print.
    assert main([*arguments, "--json"]) == ExitCode.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["profile"]["layers"] == 2
    assert told["selection"]["layers"] == [1]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--workers", "0"], "workers must be at least 1, got 0"),
        (["--samples", "40"], r"samples must be in \[1, 8\].*got 40"),
        (["--tolerance", "2"], r"tolerance must be in \(0, 1\), got 2"),
    ],
)
def test_wrong_values_end_with_the_usage_exit_code_before_ray_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    from workloads.data import build_digits_vqa, read_llava, write_shard

    build_digits_vqa(tmp_path, seed=0, train_scenes=4, eval_scenes=1, questions_per_scene=2)
    shard = tmp_path / "data.arrow"
    write_shard(read_llava(tmp_path / "train.json", tmp_path), tmp_path, shard)
    assert main(["arank", "digits", "--data", str(shard), *arguments]) == ExitCode.WRONG_USAGE
    error = capsys.readouterr().err
    assert re.search(reason, error)


def test_a_model_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["arank", "./none", "--data", "digits"]) == ExitCode.WRONG_USAGE
    assert "'./none': no such folder" in capsys.readouterr().err
