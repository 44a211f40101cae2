"""The training loop: beside Hugging Face's Trainer, with and without checkpoints, after a kill.

    OMP_NUM_THREADS=2 python benchmarks/training.py --out docs/results/training.md
    OMP_NUM_THREADS=2 python benchmarks/training.py --rows trainer checkpoints

The embedded model on its own questions, batch 32, float32; projector, decoder and routers learn.
What is compared takes turns in one process: two rounds to warm up, then as many as ``--rounds``
says; a ratio is the median of the ratios of neighbours. The row `kill` starts Ray, ends a worker
with SIGKILL, and reads the clocks.
"""

import argparse
import io
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, SequentialSampler
from torch.utils.flop_counter import FlopCounterMode
from training_kill import after_a_kill
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from workloads.data import (
    Encoder,
    Sample,
    TrainingBatches,
    build_digits_vqa,
    open_shard,
    read_llava,
    write_shard,
)
from workloads.data.order import SampleOrder
from workloads.mod import MoDConfig, convert
from workloads.models import load_model
from workloads.models.architecture import Architecture, build_model
from workloads.reporting import SilentReporter
from workloads.training import (
    Batches,
    Checkpoints,
    CheckpointStore,
    Ranks,
    TorchEngine,
    TrainingConfig,
    choose_parts,
    train,
)
from workloads.training.checkpoints.folder import FolderObjects
from workloads.training.checkpoints.manifest import MANIFEST

BATCH, STEPS, WARM_UPS = 32, 20, 2
PARTS = ("projector", "language_model", "router")
WIDE = Architecture(hidden=512, intermediate=1376, heads=8, initializer_range=0.02)
ROWS = ("trainer", "mod", "checkpoints", "kill")

Lines = Iterator[str]
Shard = Sequence[Sample]
Make = Callable[[], PreTrainedModel]
T = TypeVar("T")


def main() -> None:
    """Measure the chosen rows and show, or write, the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        lines = []
        for row in given.rows:
            for line in globals()[f"row_{row}"](Path(scratch), given.rounds):
                lines.append(line)
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
    if given.out:
        given.out.write_text(page(lines))


def row_trainer(scratch: Path, rounds: int) -> Lines:
    """One step of ours over one of the Trainer, both with loaders of their own."""
    shard = questions(scratch)

    def ours() -> tuple[float, float]:
        waits: list[float] = []
        return median_step(our_steps(dense(), shard, waits=waits)), statistics.median(waits)

    def theirs() -> tuple[float, float]:
        return median_step(trainer_steps(shard, scratch)), 0.0

    pairs = alternate(ours, theirs, rounds)
    ratio = statistics.median(mine[0] / other[0] for mine, other in pairs)
    step = statistics.median(mine[0] for mine, _ in pairs)
    wait = statistics.median(mine[1] / mine[0] for mine, _ in pairs)
    yield line(
        "step time over Hugging Face's Trainer", "at most 1.0", f"{ratio:.3f} ({step:.3f} s)"
    )
    yield line("waiting for the loader, share of a step", "below 2 %", f"{wait:.2%}")


def row_mod(scratch: Path, rounds: int) -> Lines:
    """A MoD step over a dense one in the whole loop, beside the operations of both."""
    shard = questions(scratch)
    for name, config in (
        ("γ-MoD", MoDConfig.gamma(layers=range(1, 7), capacity_ratio=0.6, masked="image-only")),
        ("p-MoD", MoDConfig.p_mod(8)),
    ):
        counted = operations(converted(config), shard) / operations(dense(), shard)

        def mod_step(config: MoDConfig = config) -> float:
            return median_step(our_steps(converted(config), shard))

        pairs = alternate(mod_step, lambda: median_step(our_steps(dense(), shard)), rounds)
        ratio = statistics.median(mod / plain for mod, plain in pairs)
        asked = f"at most {counted + 0.05:.3f}"
        yield line(
            f"{name}, step over dense ({counted:.3f} of its operations)", asked, f"{ratio:.3f}"
        )


def row_checkpoints(scratch: Path, rounds: int) -> Lines:
    """A training that saves every 50 steps over one that never does."""
    shard = questions(scratch)
    for name, make, batch in (("embedded", dense, BATCH), ("27 million weights", wide, 4)):
        folder = scratch / f"checkpoints-{batch}"

        def saving(make: Make = make, batch: int = batch, folder: Path = folder) -> float:
            return seconds_of(make(), shard, batch, every=50, folder=folder)

        def never(make: Make = make, batch: int = batch, folder: Path = folder) -> float:
            return seconds_of(make(), shard, batch, every=10**6, folder=folder)

        pairs = alternate(saving, never, min(rounds, 3), warm_ups=1)
        cost = statistics.median(1.0 - without / with_ for with_, without in pairs)
        kept = len(list(folder.rglob(MANIFEST)))
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / kept
        what = f"throughput lost to a checkpoint every 50 steps, {name} ({size / 1e6:.0f} MB each)"
        yield line(what, "below 5 %", f"{cost:.1%}")


def row_kill(scratch: Path, rounds: int) -> Lines:
    """From a SIGKILL of a worker to new steps, on a local Ray."""
    questions(scratch)
    for name, seconds in after_a_kill(scratch, scratch / "questions.arrow", min(rounds, 5)).items():
        yield line(f"after a kill: {name}", "quoted", f"{seconds:.1f} s")


def alternate(
    first: Callable[[], T], second: Callable[[], T], rounds: int, warm_ups: int = WARM_UPS
) -> list[tuple[T, T]]:
    """Pairs of results in turns, those of the warm-ups left out."""
    return [(first(), second()) for _ in range(warm_ups + rounds)][warm_ups:]


def questions(scratch: Path) -> Shard:
    """A shard of the embedded data."""
    shard = scratch / "questions.arrow"
    if not shard.exists():
        build_digits_vqa(scratch, seed=0, train_scenes=300, eval_scenes=1, questions_per_scene=4)
        write_shard(read_llava(scratch / "train.json", scratch), scratch, shard)
    return open_shard(shard)


def dense() -> PreTrainedModel:
    """The embedded model."""
    return load_model("digits")[0]


def converted(config: MoDConfig) -> PreTrainedModel:
    """The embedded model with random routers."""
    model = dense()
    torch.manual_seed(0)
    convert(model, config)
    return model


def wide() -> PreTrainedModel:
    """The same shape with a decoder of 27 million weights."""
    torch.manual_seed(0)
    return build_model(WIDE, load_model("digits")[1])


class Watched:
    """Batches that note when each step asks for its own, and how long it waits."""

    def __init__(self, batches: TrainingBatches, waits: list[float] | None) -> None:
        self._batches, self._waits = batches, waits
        self.asked: list[float] = []

    def at(self, step: int) -> Sequence[Mapping[str, Tensor]]:
        """Note the time, and ask for them."""
        self.asked.append(time.perf_counter())
        found = self._batches.at(step)
        if self._waits is not None and step:
            self._waits.append(time.perf_counter() - self.asked[-1])
        return found

    def sample_ids(self, step: int) -> Sequence[str]:
        """As they are."""
        return self._batches.sample_ids(step)

    def save(self, folder: Path) -> None:
        """As they do."""
        self._batches.save(folder)

    def load(self, folder: Path) -> None:
        """As they do."""
        self._batches.load(folder)


def our_steps(
    model: PreTrainedModel, shard: Shard, *, waits: list[float] | None = None
) -> list[float]:
    """When each step of ours began."""
    config = training_config(STEPS, BATCH, 10**6)
    batches = Watched(batches_of(shard, BATCH), waits)
    run(model, batches, config, NoCheckpoints())
    return batches.asked


def seconds_of(model: PreTrainedModel, shard: Shard, batch: int, every: int, folder: Path) -> float:
    """How long 160 steps take, saving included."""
    config = training_config(160, batch, every)
    checkpoints = Checkpoints(
        objects=FolderObjects(folder),
        prefix=f"{time.time_ns()}",
        writer="benchmark",
        ranks=Ranks(),
        warn=print,
    )
    return run(model, batches_of(shard, batch), config, checkpoints)


def run(
    model: PreTrainedModel, batches: Batches, config: TrainingConfig, checkpoints: CheckpointStore
) -> float:
    """Train with plain torch; seconds of the loop."""
    choose_parts(model, config.trainable)
    engine = TorchEngine(model, config)
    reporter = SilentReporter()
    return train(engine, batches, config, reporter=reporter, checkpoints=checkpoints).seconds


def training_config(steps: int, batch: int, every: int) -> TrainingConfig:
    """What is compared everywhere."""
    return TrainingConfig(
        steps=steps,
        learning_rate=1e-3,
        trainable=PARTS,
        global_batch=batch,
        checkpoint_every=every,
    )


def batches_of(shard: Shard, batch: int) -> TrainingBatches:
    """One process's batches."""
    encoder = Encoder(load_model("digits")[1])
    return TrainingBatches(shard, encoder, global_batch=batch, micro_batch=batch, seed=0)


class NoCheckpoints:
    """A store that keeps nothing."""

    is_uploaded = True

    def restore(self, layout: str, load: object) -> None:
        """There is none."""

    def finish(self) -> None:
        """Nothing is on its way."""


class Picked(Dataset[Sample]):
    """Samples in the order in which our loop sees them."""

    def __init__(self, shard: Shard) -> None:
        order = SampleOrder(len(shard), BATCH, seed=0)
        self._shard = shard
        self._order = [index for step in range(STEPS) for index in order.batch(step)]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> Sample:
        return self._shard[self._order[position]]


class Stamps(TrainerCallback):
    """When each step began."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def on_step_begin(self, *arguments: object, **options: object) -> None:
        """Note the time."""
        self.asked.append(time.perf_counter())


class InOrder(Trainer):
    """A Trainer that shuffles nothing."""

    def _get_train_sampler(self, dataset: object = None) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)


def trainer_steps(shard: Shard, scratch: Path) -> list[float]:
    """When each step of the Trainer began: same samples, rate, optimizer and clipping."""
    model, processor = load_model("digits")
    choose_parts(model, PARTS)
    encoder = Encoder(processor)

    def collate(samples: list[Sample]) -> dict[str, Tensor]:
        batch = encoder.training_batch(samples)
        batch.pop("token_kinds")
        return batch

    stamps = Stamps()
    arguments = TrainingArguments(
        output_dir=str(scratch / "trainer"),
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        use_cpu=True,
        dataloader_num_workers=2,
        save_strategy="no",
        logging_steps=5,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = InOrder(
        model=model,
        args=arguments,
        train_dataset=Picked(shard),
        data_collator=collate,
        callbacks=[stamps],
    )
    with redirect_stdout(io.StringIO()):
        trainer.train()
    return stamps.asked


def median_step(asked: Sequence[float]) -> float:
    """Median seconds of a step, the first three left out."""
    starts = asked[3:]
    return statistics.median(after - before for before, after in pairwise(starts))


def operations(model: PreTrainedModel, shard: Shard) -> int:
    """What torch counts in a forward and a backward of one batch."""
    choose_parts(model, PARTS)
    batch = dict(batches_of(shard, BATCH).at(0)[0])
    if not hasattr(model.config, "mod"):
        batch.pop("token_kinds")
    with FlopCounterMode(display=False) as counter:
        model.train()(**batch, use_cache=False).loss.backward()
    return counter.get_total_flops()


def line(figure: str, asked: str, measured: str) -> str:
    """A row of the table."""
    return f"| {figure} | {asked} | {measured} |"


def page(lines: Sequence[str]) -> str:
    """The results as Markdown."""
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    return "\n".join(
        [
            "# The training loop",
            "",
            "The embedded model on its own questions, batch 32, float32, plain torch; projector, "
            "decoder and routers learn. What is compared takes turns in one process, after "
            f"{WARM_UPS} warm-ups; ratios are medians of the ratios of neighbours, steps the "
            "medians within a training. After a kill: two Ray workers under DeepSpeed, one ended "
            "by SIGKILL.",
            "",
            "| figure | asked for | measured |",
            "|---|---|---|",
            *lines,
            "",
            "```",
            "OMP_NUM_THREADS=2 python benchmarks/training.py --out docs/results/training.md",
            "```",
            "",
            f"Commit {commit}, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPU cores "
            f"({platform.machine()}), no GPU, torch {torch.__version__}.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
