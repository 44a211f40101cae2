import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from safetensors.torch import load_file

from orchestrator.durable import Artifact, StepContext, open_store
from orchestrator.stages.align import align
from orchestrator.stages.finetune import finetune
from workloads.data import build_digits_vqa, read_llava, write_shard
from workloads.errors import WorkloadError
from workloads.mod import MoDConfig, convert, load_pretrained, mod_config, save_pretrained
from workloads.models import load_model
from workloads.models.architecture import Architecture, build_model
from workloads.models.processor import build_processor, train_tokenizer
from workloads.training import TrainingError, TrainingStoppedError

pytestmark = pytest.mark.ray

ALIGN = {"steps": 2, "learning_rate": 1e-3, "trainable": ["projector"], "global_batch": 4}
FINETUNE = ALIGN | {"steps": 8, "trainable": ["projector", "language_model", "router"]}


@dataclass
class Told:
    """A reporter that writes down what it hears, from any process."""

    folder: Path

    def progress(self, done: int, total: int, unit: str = "steps", note: str = "") -> None:
        self._write("progress", f"{done}/{total}")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._write("metrics", str(step))

    def message(self, text: str) -> None:
        self._write("messages", text)

    def heard(self, what: str) -> list[str]:
        file = self.folder / what
        return file.read_text().splitlines() if file.exists() else []

    def _write(self, what: str, line: str) -> None:
        with (self.folder / what).open("a") as file:
            file.write(f"{line}\n")


@dataclass
class EndingItsWorker(Told):
    """Ends the worker that reports, once: as the kernel does when memory runs out."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        super().metrics(step, values)
        if len(self.heard("metrics")) == 1:
            os._exit(1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def make_inputs(root: Path) -> dict[str, Artifact]:
    """A small dense model, its converted twin, and a shard of questions."""
    build_digits_vqa(root / "raw", seed=0, train_scenes=10, eval_scenes=2, questions_per_scene=2)
    conversations = read_llava(root / "raw" / "train.json", root / "raw")
    (root / "data").mkdir()
    write_shard(conversations, root / "raw", root / "data" / "train.arrow")
    torch.manual_seed(0)
    sizes = Architecture(hidden=32, intermediate=32, layers=3, heads=4, vision_layers=1)
    tokenizer = train_tokenizer([turn.text for c in conversations for turn in c.turns], 300)
    processor = build_processor(
        tokenizer, image_pixels=sizes.image_pixels, patch_pixels=sizes.patch_pixels
    )
    model = build_model(sizes, processor)
    model.save_pretrained(root / "dense" / "model")
    processor.save_pretrained(root / "dense" / "model")
    convert(model, MoDConfig.gamma(layers=[1, 2], capacity_ratio=0.6))
    save_pretrained(model, root / "mod" / "model", processor)
    return {
        name: Artifact(path=root / name, measurement=root / name, digest=name, key=name)
        for name in ("data", "dense", "mod")
    }


@dataclass
class Step:
    """One step's surroundings in a store of its own."""

    root: Path
    inputs: Mapping[str, Artifact]
    training: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    reporter: Told | None = None
    attempt: int = 1
    stop_at_s: float | None = None

    def run(self, function: Callable[[StepContext], None]) -> Path:
        """Run a stage as the durable run does: inside a Ray task that takes no CPU."""
        output, measurement = self.root / f"out-{self.attempt}", self.root / f"m-{self.attempt}"
        output.mkdir(parents=True)
        measurement.mkdir()
        context = StepContext(
            run_id="run",
            step=function.__name__,
            key="key",
            epoch=1,
            attempt=self.attempt,
            store=open_store(str(self.root / "store")),
            params={"seed": 0, "training": self.training},
            settings={"workers": 2, "checkpoint_every": 2, **self.settings},
            inputs=self.inputs,
            output=output,
            measurement=measurement,
            checkpoint_prefix="checkpoints/key",
            reporter=self.reporter or Told(self.root),
            stop_at_s=self.stop_at_s,
        )
        ray.get(ray.remote(num_cpus=0)(function).remote(context))
        return output


def has_continued(reporter: Told) -> bool:
    """Whether a checkpoint was used: the newest may still have been on its way."""
    texts = [f"continuing after step {step} of 8" for step in (2, 4)]
    return any(text in texts for text in reporter.heard("messages"))


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_alignment_changes_the_projector_and_proves_the_rest_unchanged(
    tmp_path: Path, inputs: dict[str, Artifact], local_ray: None
) -> None:
    step = Step(tmp_path, {"model": inputs["dense"], "data": inputs["data"]}, ALIGN)
    output = step.run(align)
    before = load_file(inputs["dense"].path / "model" / "model.safetensors")
    after = load_file(output / "model" / "model.safetensors")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed
    assert all("multi_modal_projector" in name for name in changed)
    history = json.loads((output / "history.json").read_text())
    assert [point["step"] for point in history["points"]] == [1, 2]
    assert len(history["frozen_digest"]) == 64
    load_model(output / "model")


def test_a_lost_worker_costs_no_bit_of_the_result(
    tmp_path: Path, inputs: dict[str, Artifact], local_ray: None
) -> None:
    folders = {"model": inputs["mod"], "data": inputs["data"]}
    undisturbed = Step(tmp_path / "undisturbed", folders, FINETUNE).run(finetune)
    (tmp_path / "disturbed").mkdir()
    reporter = EndingItsWorker(tmp_path / "disturbed")
    disturbed = Step(tmp_path / "disturbed", folders, FINETUNE, reporter=reporter).run(finetune)
    assert files(disturbed) == files(undisturbed)
    assert has_continued(reporter)
    thresholds = mod_config(load_pretrained(disturbed / "model")).thresholds
    assert thresholds is not None
    assert all(0 < threshold < 1 for threshold in thresholds)


def test_damaged_images_are_replaced_and_listed_alike_with_and_without_a_lost_worker(
    tmp_path: Path, inputs: dict[str, Artifact], local_ray: None
) -> None:
    raw, damaged = tmp_path / "raw", tmp_path / "data"
    build_digits_vqa(raw, seed=0, train_scenes=10, eval_scenes=1, questions_per_scene=2)
    conversations = read_llava(raw / "train.json", raw)
    (raw / conversations[4].images[0]).write_bytes(b"")
    damaged.mkdir()
    write_shard(conversations, raw, damaged / "train.arrow")
    data = Artifact(path=damaged, measurement=damaged, digest="damaged", key="damaged")
    folders = {"model": inputs["dense"], "data": data}
    training = FINETUNE | {"group_by_length": True}
    undisturbed = Step(tmp_path / "undisturbed", folders, training).run(finetune)
    (tmp_path / "disturbed").mkdir()
    reporter = EndingItsWorker(tmp_path / "disturbed")
    disturbed = Step(tmp_path / "disturbed", folders, training, reporter=reporter).run(finetune)
    assert files(disturbed) == files(undisturbed)
    replaced = json.loads((disturbed / "history.json").read_text())["replaced"]
    # 8 steps of 4 are 1.6 epochs of 20 samples, of which two show the image.
    assert {each["sample"] for each in replaced} == {"train-00002-0", "train-00002-1"}
    assert all("missing or empty" in each["reason"] for each in replaced)
    assert any(each["by"] in line for each in replaced for line in reporter.heard("messages"))


class Killer(threading.Thread):
    """Ends workers of this process's Ray at seeded moments, as the kernel would."""

    def __init__(self, told: Told, steps: int, kills: int) -> None:
        super().__init__(daemon=True)
        self._random, self._over = random.Random(7), threading.Event()
        self._told, self.killed = told, 0
        self._due = sorted(self._random.sample(range(2, steps - 5), kills))

    def run(self) -> None:
        seen = 0
        while self._due and not self._over.wait(0.1):
            progress, workers = self._told.heard("progress"), self._workers()
            if len(progress) == seen or len(workers) < 2:
                continue
            if int(progress[-1].split("/")[0]) < self._due[0]:
                continue
            self._over.wait(self._random.uniform(0.0, 0.4))
            with suppress(psutil.NoSuchProcess):
                self._random.choice(workers).kill()
                seen, self.killed = len(progress), self.killed + 1
                self._due.pop(0)

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _workers(self) -> list[psutil.Process]:
        found = psutil.Process().children(recursive=True)
        with suppress(psutil.NoSuchProcess):
            # A process that has just ended has an empty command line.
            named = [each for each in found if "RayTrainWorker" in "".join(each.cmdline()[:1])]
            return sorted(named, key=lambda process: process.pid)
        return []


@pytest.mark.slow
def test_ten_kills_at_any_moment_cost_no_bit_of_the_result(
    tmp_path: Path, inputs: dict[str, Artifact], local_ray: None
) -> None:
    folders = {"model": inputs["mod"], "data": inputs["data"]}
    training = FINETUNE | {"steps": 120}
    undisturbed = Step(tmp_path / "undisturbed", folders, training).run(finetune)
    (tmp_path / "disturbed").mkdir()
    told = Told(tmp_path / "disturbed")
    killer = Killer(told, steps=120, kills=10)
    killer.start()
    settings = {"max_failures": 30, "checkpoint_every": 3}
    disturbed = Step(tmp_path / "disturbed", folders, training, settings, told).run(finetune)
    killer.stop()
    assert killer.killed == 10
    assert files(disturbed) == files(undisturbed)


def test_a_later_attempt_continues_where_an_earlier_one_was_lost(
    tmp_path: Path, inputs: dict[str, Artifact], local_ray: None
) -> None:
    folders = {"model": inputs["dense"], "data": inputs["data"]}
    reporter = EndingItsWorker(tmp_path)
    step = Step(tmp_path, folders, FINETUNE, {"workers": 1, "max_failures": 0}, reporter)
    with pytest.raises(ray.exceptions.RayTaskError, match="WorkerGroupError"):
        step.run(finetune)
    step.attempt = 2
    step.run(finetune)
    assert has_continued(reporter)


def test_a_later_attempt_goes_on_with_fewer_workers(
    tmp_path: Path, inputs: dict[str, Artifact], local_ray: None
) -> None:
    folders = {"model": inputs["mod"], "data": inputs["data"]}
    undisturbed = Step(tmp_path / "undisturbed", folders, FINETUNE).run(finetune)
    (tmp_path / "disturbed").mkdir()
    reporter = EndingItsWorker(tmp_path / "disturbed")
    step = Step(tmp_path / "disturbed", folders, FINETUNE, {"max_failures": 0}, reporter)
    with pytest.raises(ray.exceptions.RayTaskError, match="WorkerGroupError"):
        step.run(finetune)
    step.attempt, step.settings = 2, {"workers": 1}
    disturbed = step.run(finetune)
    assert has_continued(reporter)
    assert losses(disturbed) == pytest.approx(losses(undisturbed), rel=1e-4)


def losses(output: Path) -> list[float]:
    return [point["loss"] for point in json.loads((output / "history.json").read_text())["points"]]


def test_a_training_uses_the_workers_that_there_is_room_for_and_that_can_share_the_batch(
    tmp_path: Path, inputs: dict[str, Artifact], local_ray: None
) -> None:
    folders = {"model": inputs["dense"], "data": inputs["data"]}
    for batch, workers in ((4, 2), (3, 1)):
        root = tmp_path / str(batch)
        training = ALIGN | {"global_batch": batch}
        Step(root, folders, training, {"workers": [1, 4]}, Told(tmp_path)).run(align)
        measured = json.loads((root / "m-1" / "training.json").read_text())
        assert measured["workers"] == workers, f"{batch} samples, room for 2 workers"
        assert measured["signals"][-1]["signal/samples_per_s"] > 0


def test_a_training_stops_in_time_and_can_go_on(
    tmp_path: Path, inputs: dict[str, Artifact], local_ray: None
) -> None:
    folders = {"model": inputs["dense"], "data": inputs["data"]}
    step = Step(tmp_path, folders, ALIGN, {"workers": 1}, stop_at_s=time.time())
    with pytest.raises(TrainingStoppedError, match="step 1: the time is up"):
        step.run(align)
    step.attempt, step.stop_at_s = 2, None
    step.reporter = Told(tmp_path)
    step.run(align)
    assert "continuing after step 1 of 2" in step.reporter.heard("messages")


def test_an_error_that_would_come_again_ends_the_step_with_its_own_type(
    tmp_path: Path, inputs: dict[str, Artifact], local_ray: None
) -> None:
    folders = {"model": inputs["data"], "data": inputs["data"]}
    with pytest.raises(WorkloadError, match=r"config\.json"):
        Step(tmp_path, folders, FINETUNE, {"workers": 1}).run(finetune)


@pytest.mark.parametrize(
    ("training", "reason"),
    [
        (ALIGN | {"lr": 1.0}, "unexpected keyword argument 'lr'"),
        (ALIGN | {"steps": 0}, "steps must be at least 1, got 0"),
        (ALIGN | {"global_batch": 3}, "global_batch 3 cannot be shared equally by 2 workers"),
        (FINETUNE, "alignment trains the projector only"),
    ],
)
def test_a_training_that_cannot_be_is_refused_before_anything_starts(
    tmp_path: Path,
    inputs: dict[str, Artifact],
    local_ray: None,
    training: dict[str, Any],
    reason: str,
) -> None:
    folders = {"model": inputs["dense"], "data": inputs["data"]}
    with pytest.raises(TrainingError, match=reason):
        Step(tmp_path, folders, training).run(align)
