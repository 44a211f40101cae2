import json
from pathlib import Path

import pytest

from orchestrator.cli import ExitCode, main
from workloads.data import build_digits_vqa, open_shard


@pytest.fixture
def root(tmp_path: Path) -> Path:
    build_digits_vqa(tmp_path, seed=0, train_scenes=4, eval_scenes=1, questions_per_scene=2)
    return tmp_path


def test_it_counts_what_it_has_checked(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(root / "train.json"), "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out) == {
        "conversations": 8,
        "images": 4,
        "text_only": 0,
        "turns": {"2": 8},
    }


def test_a_bad_image_is_refused_by_its_record_or_let_in_for_training_to_replace(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "images" / "train-00001.png").unlink()
    build = ["data", "build", str(root / "train.json"), "--out", str(root / "new" / "train.arrow")]
    assert main(build) != ExitCode.DONE
    assert "record 2 ('train-00001-0')" in capsys.readouterr().err
    assert not list((root / "new").iterdir())
    assert main([*build, "--on-bad-image", "replace", "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["missing_images"] == 2
    assert len(open_shard(root / "new" / "train.arrow")) == 8
