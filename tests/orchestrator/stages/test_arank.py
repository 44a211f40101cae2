import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
import torch
from ray.exceptions import RayActorError

from orchestrator.durable import Artifact, StepContext, open_store
from orchestrator.ranking import draw_samples
from orchestrator.stages.arank import arank
from workloads.arank import ARankError, read_profile
from workloads.data import build_digits_vqa, read_llava, write_shard
from workloads.models import ModelError
from workloads.models.architecture import Architecture, build_model
from workloads.models.processor import build_processor, train_tokenizer

pytestmark = pytest.mark.ray


class Listener:
    """Keeps what the stage says; ``at_progress`` may interfere."""

    def __init__(self, at_progress: Callable[[int], None] = lambda done: None) -> None:
        self.at_progress = at_progress
        self.progressed: list[tuple[int, int]] = []
        self.messages: list[str] = []
        self.notes: list[str] = []

    def progress(self, done: int, total: int, unit: str = "steps", note: str = "") -> None:
        self.progressed.append((done, total))
        self.notes.append(note)
        self.at_progress(done)

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """A small model with sharp random attention, and a shard of 40 real questions."""
    root = tmp_path_factory.mktemp("arank")
    build_digits_vqa(root / "raw", seed=0, train_scenes=20, eval_scenes=5, questions_per_scene=2)
    conversations = read_llava(root / "raw" / "train.json", root / "raw")
    (root / "data").mkdir()
    write_shard(conversations, root / "raw", root / "data" / "train.arrow")
    torch.manual_seed(0)
    sizes = Architecture(hidden=32, intermediate=32, layers=3, heads=4, vision_layers=1)
    tokenizer = train_tokenizer((t.text for c in conversations for t in c.turns), 400)
    processor = build_processor(tokenizer, image_pixels=64, patch_pixels=8)
    model = build_model(sizes, processor)
    for name, weight in model.named_parameters():
        if "language_model" in name and ("q_proj" in name or "k_proj" in name):
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(root / "aligned" / "model")
    processor.save_pretrained(root / "aligned" / "model")
    folders = {"model": root / "aligned", "data": root / "data"}
    return {
        name: Artifact(path=path, measurement=path, digest="0" * 64, key="")
        for name, path in folders.items()
    }


Step = Callable[..., StepContext]
"""Makes the context of a run of its own; keywords are params or settings."""


@pytest.fixture(scope="module")
def step(
    inputs: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory, local_ray: None
) -> Step:
    def context(listener: Listener | None = None, **changes: Any) -> StepContext:
        root = tmp_path_factory.mktemp("run")
        (root / "output").mkdir()
        params = {"samples": 6, "seed": 3}
        settings = {"workers": 1, "cpus": 0.4, "gpus": 0}
        return StepContext(
            run_id="run",
            step="arank",
            key="0" * 64,
            epoch=1,
            attempt=1,
            store=open_store(str(root / "store")),
            params={name: changes.pop(name, value) for name, value in params.items()}
            | ({"stop": changes.pop("stop")} if "stop" in changes else {}),
            inputs={name: changes.pop(name, value) for name, value in inputs.items()},
            settings=settings | changes,
            output=root / "output",
            measurement=root / "measurement",
            checkpoint_prefix="checkpoints",
            reporter=listener or Listener(),
        )

    return context


@pytest.fixture(scope="module")
def alone(step: Step) -> StepContext:
    """What one worker wrote."""
    context = step()
    arank(context)
    return context


def written(context: StepContext) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in context.output.iterdir()}


def kill_one_worker() -> None:
    """As ``kill -9`` does: the process is gone without a word."""
    workers = [
        process
        for process in psutil.Process().children(recursive=True)
        if "RankWorker" in " ".join(process.cmdline())
    ]
    # Workers of an earlier test may be about to end.
    max(workers, key=lambda process: process.create_time()).kill()


def test_the_summary_tells_the_ranks_of_every_layer(alone: StepContext) -> None:
    assert sorted(written(alone)) == ["arank.json", "arank.svg", "ranks.parquet"]
    assert {path.name for path in alone.measurement.iterdir()} == {
        "arank-head.png",
        "arank-task.png",
    }
    summary = json.loads((alone.output / "arank.json").read_text())
    assert summary["profile"]["samples"] == 6
    assert len(set(summary["profile"]["mean"])) == 3
    assert read_profile(alone.output).digest == summary["profile"]["digest"]


@pytest.mark.parametrize("workers", [2, 5])
def test_any_number_of_workers_writes_the_same_bytes(
    step: Step, alone: StepContext, workers: int
) -> None:
    context = step(workers=workers)
    arank(context)
    assert written(context) == written(alone)


def test_a_killed_worker_costs_only_its_unfinished_sample(step: Step, alone: StepContext) -> None:
    listener = Listener(lambda done: kill_one_worker() if done == 2 else None)
    context = step(listener, workers=2)
    arank(context)
    assert written(context) == written(alone)
    assert listener.progressed == [(done, 6) for done in range(1, 7)]
    assert "layer order of half the samples agrees by" in listener.notes[-1]
    assert ["worker was lost" in message for message in listener.messages].count(True) == 1


def test_workers_that_are_lost_too_often_end_the_stage(step: Step) -> None:
    context = step(Listener(lambda done: kill_one_worker()), max_failures=0)
    with pytest.raises(RayActorError):
        arank(context)
    assert not written(context)


def test_more_samples_keep_those_drawn_before(step: Step, alone: StepContext) -> None:
    context = step(samples=2)
    arank(context)
    few, many = read_profile(context.output), read_profile(alone.output)
    assert (many.ranks[:2] == few.ranks).all()


def test_what_a_worker_raises_arrives_as_it_was_raised(step: Step, tmp_path: Path) -> None:
    nothing = Artifact(path=tmp_path, measurement=tmp_path, digest="0" * 64, key="")
    with pytest.raises(ModelError, match=str(tmp_path)):
        arank(step(model=nothing))


@pytest.fixture(scope="module")
def damaged(inputs: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes data artifacts in which the samples ``bad`` are too long for the model."""
    shard = inputs["data"].path / "train.arrow"
    with pa.ipc.open_file(str(shard)) as source:
        table = source.read_all()

    def make(bad: set[int], *, images: bool = True) -> Artifact:
        rows = table.to_pylist()
        for index, row in enumerate(rows):
            if index in bad:
                row["turns"][0]["text"] += " why" * 9000
            if not images:
                row["images"] = []
                row["turns"][0]["text"] = row["turns"][0]["text"].replace("<image>", "")
        folder = tmp_path_factory.mktemp("damaged")
        with pa.ipc.new_file(str(folder / "train.arrow"), table.schema) as sink:
            sink.write_table(pa.Table.from_pylist(rows, schema=table.schema))
        return Artifact(path=folder, measurement=folder, digest="0" * 64, key="")

    return make


def test_a_bad_sample_is_left_out_listed_and_told(
    step: Step, alone: StepContext, damaged: Any
) -> None:
    third = draw_samples(alone.inputs["data"].path / "train.arrow", 6, 3)[2]
    contexts = [step(data=damaged({third}), workers=workers) for workers in (1, 2)]
    for context in contexts:
        arank(context)
    assert written(contexts[0]) == written(contexts[1])
    summary = json.loads((contexts[0].output / "arank.json").read_text())
    assert summary["profile"]["samples"] == 5
    assert [bad["reason"].count("more than the limit") for bad in summary["quarantined"]] == [1]
    kept = [0, 1, 3, 4, 5]
    assert (read_profile(contexts[0].output).ranks == read_profile(alone.output).ranks[kept]).all()


def test_samples_that_are_all_bad_are_an_error(step: Step, damaged: Any) -> None:
    context = step(data=damaged(set(range(40))), samples=3, workers=2)
    with pytest.raises(ARankError, match="none of 3 samples could be measured; the first"):
        arank(context)
    assert not written(context)


def test_samples_without_an_image_are_an_error(step: Step, damaged: Any) -> None:
    with pytest.raises(ARankError, match=r"none of the 6 samples drawn from .* has an image"):
        arank(step(data=damaged(set(), images=False)))


def test_an_early_stop_counts_in_sample_order_whatever_the_workers(step: Step) -> None:
    stop = {"unchanged": 4, "policy": {"policy": "all"}}
    contexts = [step(stop=stop, workers=workers, samples=20) for workers in (1, 2, 5)]
    for context in contexts:
        arank(context)
    assert written(contexts[0]) == written(contexts[1]) == written(contexts[2])
    summary = json.loads((contexts[0].output / "arank.json").read_text())
    assert summary["stopped_early"]
    assert summary["profile"]["samples"] == 5


def test_rejects_zero_workers(step: Step) -> None:
    with pytest.raises(ARankError, match="workers must be at least 1, got 0"):
        arank(step(workers=0))


@pytest.mark.parametrize("samples", [0, 41])
def test_rejects_sample_counts_that_do_not_exist(step: Step, samples: int) -> None:
    with pytest.raises(ARankError, match=rf"\[1, 40\].*got {samples}"):
        arank(step(samples=samples))
