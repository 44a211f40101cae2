import json
from pathlib import Path

import pytest
import ray

from orchestrator import dataset
from orchestrator.dataset import build_dataset
from workloads.data import Build, build_digits_vqa, open_shard
from workloads.errors import DataError

pytestmark = [
    pytest.mark.ray,
    # Ray Data 2.60 warns of options that it sets itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some more records than two parts have."""
    root = tmp_path_factory.mktemp("digits")
    build_digits_vqa(root, seed=0, train_scenes=60, eval_scenes=1, questions_per_scene=70)
    return root


@pytest.fixture
def by_ray(monkeypatch: pytest.MonkeyPatch, local_ray: None) -> None:
    monkeypatch.setattr(dataset, "RECORDS_HERE", 0)


def test_ray_data_builds_the_same_bytes_as_one_process(
    digits: Path, tmp_path: Path, by_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Build(str(digits / "train.json"), str(digits))
    told: list[tuple[int, int]] = []
    summaries = [
        build_dataset(build, tmp_path / "ray.arrow", lambda *done: told.append(done)),
        build_dataset(build, None),
    ]
    monkeypatch.setattr(dataset, "RECORDS_HERE", 1 << 20)
    summaries.append(build_dataset(build, tmp_path / "here.arrow"))
    assert (tmp_path / "ray.arrow").read_bytes() == (tmp_path / "here.arrow").read_bytes()
    assert len(open_shard(tmp_path / "ray.arrow")) == 4200
    assert told[-1] == (4200, 4200)
    for summary in summaries:
        assert (summary.conversations, summary.images, summary.text_only) == (4200, 60, 0)


def build_by_ray(build: Build, path: Path) -> int:
    """Runs in a Ray task, as the stage does."""
    dataset.RECORDS_HERE = 0
    return build_dataset(build, path).conversations


def test_a_task_that_holds_no_cpu_can_have_it_built(
    digits: Path, tmp_path: Path, local_ray: None
) -> None:
    build = Build(str(digits / "eval.json"), str(digits))
    task = ray.remote(num_cpus=0)(build_by_ray)
    assert ray.get(task.remote(build, tmp_path / "task.arrow")) == 70
    build_dataset(build, tmp_path / "here.arrow")
    assert (tmp_path / "task.arrow").read_bytes() == (tmp_path / "here.arrow").read_bytes()


def test_the_first_fault_of_the_file_is_raised_as_it_is_and_nothing_is_written(
    digits: Path, tmp_path: Path, by_ray: None
) -> None:
    records = json.loads((digits / "train.json").read_text())
    for number in (2100, 4100):
        records[number]["image"] = "gone.png"
    source = tmp_path / "train.json"
    source.write_text(json.dumps(records))
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"gone\.png does not exist") as caught:
        build_dataset(Build(str(source), str(digits)), tmp_path / "out" / "train.arrow")
    assert caught.value.location.startswith("record 2100 ")
    assert not list((tmp_path / "out").iterdir())
