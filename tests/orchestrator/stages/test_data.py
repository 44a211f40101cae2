import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.durable import StepContext, open_store
from orchestrator.stages.data import data
from workloads.data import build_digits_vqa, open_shard
from workloads.errors import DataError
from workloads.reporting import SilentReporter

Run = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the stage and returns its output."""

    def start(params: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Path:
        output = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        output.mkdir()
        data(
            StepContext(
                run_id="run",
                step="data",
                key="key",
                epoch=1,
                attempt=1,
                store=open_store(str(tmp_path / "store")),
                params=params,
                settings=settings or {},
                inputs={},
                output=output,
                measurement=output,
                checkpoint_prefix="checkpoints/key",
                reporter=SilentReporter(),
            )
        )
        return output

    return start


@pytest.fixture
def llava(tmp_path: Path) -> dict[str, Any]:
    """Settings that name files of ten records each."""
    root = tmp_path / "llava"
    build_digits_vqa(root, seed=0, train_scenes=5, eval_scenes=5, questions_per_scene=2)
    files = {split: str(root / f"{split}.json") for split in ("train", "eval")}
    return {"files": files, "images": str(root)}


def test_the_embedded_digits_become_two_shards_and_their_description(run: Run) -> None:
    sizes = {"train_scenes": 3, "eval_scenes": 2, "questions_per_scene": 4}
    output = run({"source": "digits-vqa", "seed": 0, **sizes})
    kinds = {"count": 3, "place": 3, "presence": 3, "row_sum": 3}
    described = json.loads((output / "dataset.json").read_text())
    assert described["train"] == {"conversations": 12, "images": 3, "kinds": kinds}
    assert [len(open_shard(output / f"{split}.arrow")) for split in ("train", "eval")] == [12, 8]
    assert len(list(output.iterdir())) == 3


def test_a_missing_image_stops_it_unless_training_is_to_replace_it(
    run: Run, llava: dict[str, Any]
) -> None:
    (Path(llava["images"]) / "images" / "train-00001.png").unlink()
    with pytest.raises(DataError, match=r"train-00001\.png does not exist"):
        run({"source": "llava"}, llava)
    output = run({"source": "llava", "on_bad_image": "replace"}, llava)
    described = json.loads((output / "dataset.json").read_text())
    assert described["train"]["missing_images"] == 2
    assert described["train"]["conversations"] == 10
    assert "missing_images" not in described["eval"]


def test_evaluation_is_checked_even_where_training_replaces(
    run: Run, llava: dict[str, Any]
) -> None:
    (Path(llava["images"]) / "images" / "eval-00001.png").unlink()
    with pytest.raises(DataError, match=r"eval-00001\.png does not exist"):
        run({"source": "llava", "on_bad_image": "replace"}, llava)
