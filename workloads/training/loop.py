"""One loop for alignment and fine-tuning, alone, under torchrun and under Ray Train.

The loss of an optimizer step is the mean over all answer tokens of the *global* batch: each
micro-batch's mean counts by its tokens, so neither the number of ranks nor the size of
micro-batches changes what is minimised.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from workloads.data.collate import IGNORED_LABEL
from workloads.mod import RoutingRecord, is_converted
from workloads.reporting import Reporter
from workloads.training.checkpoint import CheckpointStore
from workloads.training.config import TrainingConfig
from workloads.training.engine import Engine
from workloads.training.errors import TrainingError
from workloads.training.ranks import Ranks
from workloads.training.rng import random_state, restore_random_state, seed_all
from workloads.training.schedule import rate_factor

Point = dict[str, float]
"""Metrics of one optimizer step, ``step`` (1-based) among them."""


class Batches(Protocol):
    """This rank's part of every global batch, a pure function of the step."""

    def at(self, step: int) -> Sequence[Mapping[str, Tensor]]:
        """Micro-batches of optimizer step ``step`` (0-based); equally many on all ranks."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training tells when it is done."""

    history: tuple[Point, ...]
    """One point per optimizer step, those before a resume included."""

    resumed_at: int
    """Steps that a checkpoint saved this process from doing; 0 for a fresh start."""

    seconds: float
    """Wall time of the steps that this process did, saving included."""


def train(
    engine: Engine,
    batches: Batches,
    config: TrainingConfig,
    *,
    reporter: Reporter,
    checkpoints: CheckpointStore,
    report_every: int = 5,
) -> TrainingResult:
    """Train from the newest checkpoint, or the beginning, to the last step.

    Every rank calls this with the same config. On the CPU and a constant number of ranks the
    weights and the history are the same bits whether or not the training was interrupted.

    Args:
        engine: Holds the model, whose parts have been chosen.
        batches: This rank's batches.
        config: How long and how fast.
        reporter: Hears metrics and progress from rank 0.
        checkpoints: Where to continue from and to save to.
        report_every: Steps between reports; the history has every step.

    Raises:
        TrainingError: If the loss or its gradient is not finite, or a global batch has no
            answer tokens. Nothing of that step is in any checkpoint.
    """
    seed_all(config.seed, engine.ranks.rank)
    run = _Run(engine, batches, config, reporter)
    resumed_at = checkpoints.restore(engine.layout, run.load) or 0
    if engine.ranks.is_first:
        reporter.progress(resumed_at, config.steps)
        if resumed_at:
            reporter.message(f"continuing after step {resumed_at} of {config.steps}")
    started = time.monotonic()
    for step in range(resumed_at, config.steps):
        run.advance(step)
        done = step + 1
        if engine.ranks.is_first and (done % report_every == 0 or done == config.steps):
            run.report()
        if done % config.checkpoint_every == 0 and done < config.steps:
            checkpoints.save(done, engine.layout, run.save)
    return TrainingResult(tuple(run.history), resumed_at, time.monotonic() - started)


class _Run:
    """A training on its way: its history, and how to do one step, save and load."""

    def __init__(
        self, engine: Engine, batches: Batches, config: TrainingConfig, reporter: Reporter
    ) -> None:
        self.history: list[Point] = []
        self._engine, self._batches = engine, batches
        self._config, self._reporter = config, reporter
        self._is_converted = is_converted(engine.model)

    def advance(self, step: int) -> None:
        """Do optimizer step ``step`` (0-based) and append its point to the history."""
        engine = self._engine
        batches = [_to_device(batch, engine.ranks.device) for batch in self._batches.at(step)]
        targets = [count_targets(batch) for batch in batches]
        all_targets = int(engine.ranks.sum([sum(targets)])[0])
        if all_targets == 0:
            raise TrainingError("no sample of the global batch has an answer token", step + 1)
        means = _Means()
        for index, (batch, count) in enumerate(zip(batches, targets, strict=True)):
            record = RoutingRecord() if self._is_converted else None
            loss = engine.forward(self._inputs(batch, count, record)).loss
            share = count / all_targets
            engine.backward(loss * share, is_last=index == len(batches) - 1)
            means.add(loss, share, record)
        factor = rate_factor(self._config, step)
        norm = engine.step(factor)
        point = {"step": step + 1, **means.over(engine.ranks)}
        point |= {"learning_rate": self._config.learning_rate * factor, "grad_norm": norm}
        self._check(point)
        self.history.append(point)

    def report(self) -> None:
        """Tell the newest point."""
        point = dict(self.history[-1])
        step = int(point.pop("step"))
        self._reporter.metrics(step, point)
        self._reporter.progress(step, self._config.steps, note=f"loss {point['loss']:.3f}")

    def save(self, folder: Path) -> None:
        """Write this rank's files of a checkpoint."""
        rank = self._engine.ranks.rank
        self._engine.save(folder)
        torch.save(random_state(), folder / f"random-{rank:05d}.pt")
        if self._engine.ranks.is_first:
            (folder / "history.json").write_text(json.dumps(self.history))

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint's files; a rank that is new to it keeps its own seed."""
        self._engine.load(folder)
        self.history = json.loads((folder / "history.json").read_text())
        random_file = folder / f"random-{self._engine.ranks.rank:05d}.pt"
        if random_file.exists():
            restore_random_state(torch.load(random_file, weights_only=True))

    def _inputs(
        self, batch: dict[str, Any], targets: int, record: RoutingRecord | None
    ) -> dict[str, Any]:
        inputs = {**batch, "use_cache": False}
        if targets == 0:
            inputs["labels"] = _with_one_target(batch)
        if record is None:
            inputs.pop("token_kinds", None)
        else:
            inputs["routing_record"] = record
        return inputs

    def _check(self, point: Point) -> None:
        for name in ("loss", "grad_norm"):
            if not math.isfinite(point[name]):
                raise TrainingError(
                    f"{name} is {point[name]}: lower learning_rate (now {point['learning_rate']:g})"
                    f" or clip_norm (now {self._config.clip_norm:g}), or look for broken samples",
                    int(point["step"]),
                )


class _Means:
    """Losses weighted by their share of the global batch's tokens; skips by micro-batches."""

    def __init__(self) -> None:
        self._losses: list[dict[str, Tensor]] = []
        self._records: list[RoutingRecord] = []

    def add(self, loss: Tensor, share: float, record: RoutingRecord | None) -> None:
        language, router = loss, None
        if record is not None:
            self._records.append(record)
            language = loss if record.lm_loss is None else record.lm_loss
            router = record.router_loss  # None where routers learn from the language model alone
        named = {"loss": loss, "lm_loss": language, "router_loss": router}
        self._losses.append(
            {n: value.detach().double() * share for n, value in named.items() if value is not None}
        )

    def over(self, ranks: Ranks) -> Point:
        """Combine over ranks; waits for the device here and not before."""
        names = list(self._losses[0])
        losses = torch.stack([torch.stack(list(each.values())) for each in self._losses])
        skip_all = sum(record.skip_all() for record in self._records)
        skip_routable = sum(record.skip_routable() for record in self._records)
        *sums, skip_all, skip_routable, count = ranks.sum(
            [*losses.sum(0).tolist(), skip_all, skip_routable, len(self._records)]
        )
        point = dict(zip(names, sums, strict=True))
        if self._records:
            point |= {"skip_all": skip_all / count, "skip_routable": skip_routable / count}
        return point


def count_targets(batch: Mapping[str, Tensor]) -> int:
    """Positions that are predicted: all labels but the first of a row and the ignored ones."""
    return int((batch["labels"][:, 1:] != IGNORED_LABEL).sum())


def _with_one_target(batch: Mapping[str, Tensor]) -> Tensor:
    """Labels that keep the mean loss of a batch without answers finite; its weight is zero."""
    labels = batch["labels"].clone()
    labels[:, -1] = batch["input_ids"][:, -1]
    return labels


def _to_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
