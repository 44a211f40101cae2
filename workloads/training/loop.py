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

from workloads.mod import RoutingRecord, is_converted, mod_config
from workloads.reporting import Reporter
from workloads.training.checkpoints.saver import Notice, Saver
from workloads.training.checkpoints.store import CheckpointStore
from workloads.training.config import TrainingConfig
from workloads.training.engine import Engine
from workloads.training.errors import TrainingError
from workloads.training.flops import StepFlops
from workloads.training.means import StepMeans
from workloads.training.meter import Meter
from workloads.training.micro_batch import count_targets, is_broken, to_device, with_one_target
from workloads.training.out_of_memory import advice_on_memory
from workloads.training.rng import random_state, restore_random_state, seed_all
from workloads.training.router_health import RouterHealth, entropies
from workloads.training.schedule import rate_factor
from workloads.training.watch import Event, Figures, Memory, Watch

Point = dict[str, float]
"""Metrics of one optimizer step, ``step`` (1-based) among them."""


class Batches(Protocol):
    """This rank's part of every global batch, a pure function of the step."""

    def at(self, step: int) -> Sequence[Mapping[str, Tensor]]:
        """Micro-batches of optimizer step ``step`` (0-based); equally many on all ranks."""

    def sample_ids(self, step: int) -> Sequence[str]:
        """Ids of the samples of the whole global batch of ``step``."""

    def save(self, folder: Path) -> None:
        """Write what has been found out about samples so far; ranks choose different names."""

    def load(self, folder: Path) -> None:
        """Take over what all ranks had written, and forget what was found out since."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training tells when it is done."""

    history: tuple[Point, ...]
    """One point per optimizer step, those before a resume included."""

    resumed_at: int
    """Steps that a checkpoint saved this process from doing; 0 for a fresh start."""

    seconds: float
    """Wall time of the steps that this process did, saving included."""

    events: tuple[dict[str, Any], ...] = ()
    """Guards that fired, as `Event.to_json` gives them; those before a resume included."""

    replaced: tuple[dict[str, Any], ...] = ()
    """Samples that could not be used, see `workloads.data.Replacement`."""


def train(
    engine: Engine,
    batches: Batches,
    config: TrainingConfig,
    *,
    reporter: Reporter,
    checkpoints: CheckpointStore,
    report_every: int = 5,
    notice: Notice | None = None,
    stop_at_s: float | None = None,
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
        notice: Says when to save at once; see `Notice`.
        stop_at_s: When to save and stop, in seconds since the epoch.

    Raises:
        TrainingStoppedError: If the time is up; call it again to go on.
        TrainingError: If a guard stops the training, or a global batch has no answer tokens.
            Nothing of that step is in any checkpoint. Or, with advice, if memory runs out.
    """
    seed_all(config.seed, engine.ranks.rank)
    run = _Run(engine, batches, config, reporter)
    saver = Saver(
        checkpoints, engine, config, run.save, reporter, notice=notice, stop_at_s=stop_at_s
    )
    restored = checkpoints.restore(engine.layout, run.load)
    if not restored and config.guards.may_roll_back:
        saver.save(0, good=0)
    done = resumed_at = restored or 0
    if engine.ranks.is_first:
        reporter.progress(resumed_at, config.steps)
        if resumed_at:
            reporter.message(f"continuing after step {resumed_at} of {config.steps}")
    run.meter.restart()
    started = time.monotonic()
    while done < config.steps:
        with advice_on_memory(engine, config, done + 1):
            decision = run.advance(done, saver)
        if decision is not None:
            done = run.roll_back(checkpoints, decision)
            continue
        done += 1
        if done % report_every == 0 or done == config.steps:
            run.report(saver.left_s(done))
        if done < config.steps:
            saver.after(done, run.watch)
    saver.finish()
    seconds = time.monotonic() - started
    return TrainingResult(tuple(run.history), resumed_at, seconds, tuple(run.watch.memory.events))


class _Run:
    """A training on its way: its history, and how to do one step, save and load."""

    def __init__(
        self, engine: Engine, batches: Batches, config: TrainingConfig, reporter: Reporter
    ) -> None:
        self.history: list[Point] = []
        rates = f"learning_rate (now {config.learning_rate:g}) or clip_norm"
        self.watch = Watch(config.guards, f"lower {rates} (now {config.clip_norm:g})")
        self._engine, self._batches = engine, batches
        self._config, self._reporter = config, reporter
        self._mod = mod_config(engine.model) if is_converted(engine.model) else None
        self.meter = Meter(engine.ranks, _price(engine, config))

    def advance(self, step: int, saver: Saver) -> Event | None:
        """Do optimizer step ``step`` (0-based) and append its point to the history.

        Args:
            step: Which one.
            saver: Votes on what is to be done after it.

        Returns:
            The reason to go back to an earlier step; then the history has no point of this one.
        """
        factor = rate_factor(self._config, step) * self.watch.rate(step)
        point: Point = {"learning_rate": self._config.learning_rate * factor}
        if self.watch.is_left_out(step):
            self.history.append({"step": step + 1, **point, "skipped": 1.0})
            return None
        means, figures = self._compute(step, saver)
        point = {"step": step + 1, **means, **point, "grad_norm": figures.grad_norm}
        decision = self._decide(figures)
        if decision is None or decision.action == "warn":
            self._engine.update(factor)
            self.history.append(point)
            return None
        if not figures.broken_inputs:
            self._engine.discard()
        if decision.action in ("stop", "rollback"):
            saver.finish()
        if decision.action == "stop":
            raise TrainingError(str(decision), step + 1)
        if decision.action == "rollback":
            return decision
        finite = {name: value for name, value in point.items() if math.isfinite(value)}
        self.history.append({**finite, "skipped": 1.0})
        return None

    def roll_back(self, checkpoints: CheckpointStore, decision: Event) -> int:
        """Restore the last good checkpoint and lower the rates; return the steps done."""
        before = self.watch.memory
        done = checkpoints.roll_back(before.good, self._engine.layout, self.load)
        if done is None:
            reason = f"{decision}; no checkpoint of step {before.good} or before is left"
            raise TrainingError(reason, decision.step)
        self.watch.roll_back(before, decision, done)
        if self._engine.ranks.is_first:
            rate = self.watch.rate(done)
            self._reporter.message(f"back to step {done}; rates from {done} on x {rate:g}")
        return done

    def _compute(self, step: int, saver: Saver) -> tuple[Point, Figures]:
        """Sum the gradient of the step's global batch, and what ranks decide together."""
        engine = self._engine
        with self.meter.waiting():
            host = self._batches.at(step)
        targets = [count_targets(batch) for batch in host]
        said = [sum(targets), sum(map(is_broken, host)), *saver.votes()]
        all_targets, broken, *votes = engine.ranks.sum(said)
        saver.hear(votes)
        if all_targets == 0:
            raise TrainingError("no sample of the global batch has an answer token", step + 1)
        if broken:
            nothing = Figures(step + 1, int(broken), math.nan, math.nan, {})
            return {}, nothing
        means = StepMeans()
        for index, (on_host, count) in enumerate(zip(host, targets, strict=True)):
            batch = to_device(on_host, engine.ranks.device)
            record = self._record()
            loss = engine.forward(self._inputs(batch, count, record)).loss
            share = count / all_targets
            engine.backward(loss * share, is_last=index == len(host) - 1)
            means.add(loss, share, record)
            self.meter.saw(on_host, record)
        combined = means.over(engine.ranks, engine.reduce())
        known = entropies(self._mod, combined.router_sums) if self._mod else {}
        loss_mean = combined.means["loss"]
        return combined.means, Figures(step + 1, 0, loss_mean, combined.grad_norm, known)

    def _record(self) -> RoutingRecord | None:
        if self._mod is None:
            return None
        is_watched = self._config.guards.collapse != "off"
        return RouterHealth(self._mod) if is_watched else RoutingRecord()

    def _decide(self, figures: Figures) -> Event | None:
        """Tell what the guards say; return the most severe event."""
        events = self.watch.judge(figures, self.history, self._batches.sample_ids)
        if self._engine.ranks.is_first:
            for event in events:
                self._reporter.message(f"step {event.step}: {event.action}: {event}")
                self._reporter.metrics(event.step, {f"guard/{event.guard}": event.value})
        return events[-1] if events else None

    def report(self, next_checkpoint_s: float | None) -> None:
        """Tell the newest point, and how it goes; every rank has a part in that."""
        signals = self.meter.read()
        if next_checkpoint_s is not None:
            signals["next_checkpoint_s"] = next_checkpoint_s
        if not self._engine.ranks.is_first:
            return
        point = dict(self.history[-1])
        step = int(point.pop("step"))
        named = {f"signal/{name}": value for name, value in signals.items()}
        self._reporter.metrics(step, {**point, **named})
        note = f"loss {point['loss']:.3f}" if "loss" in point else "skipped"
        speed = f"{signals['tokens_per_s']:.0f} tokens/s"
        self._reporter.progress(step, self._config.steps, note=f"{note}, {speed}")

    def save(self, folder: Path) -> None:
        """Write this rank's files of a checkpoint."""
        rank = self._engine.ranks.rank
        self._engine.save(folder)
        self._batches.save(folder)
        torch.save(random_state(), folder / f"random-{rank:05d}.pt")
        if self._engine.ranks.is_first:
            (folder / "history.json").write_text(json.dumps(self.history))
            (folder / "guards.json").write_text(json.dumps(self.watch.memory.to_json()))

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint's files; a rank that is new to it keeps its own seed."""
        history: list[Point] = json.loads((folder / "history.json").read_text())
        if history or self.history:  # Else both are at the start, and optimizers without state.
            self._engine.load(folder)
        self.history = history
        self._batches.load(folder)
        memory_file = folder / "guards.json"
        memory = json.loads(memory_file.read_text()) if memory_file.exists() else {}
        self.watch.memory = Memory.from_json(memory)
        random_file = folder / f"random-{self._engine.ranks.rank:05d}.pt"
        if random_file.exists():
            restore_random_state(torch.load(random_file, weights_only=True))

    def _inputs(
        self, batch: dict[str, Any], targets: int, record: RoutingRecord | None
    ) -> dict[str, Any]:
        inputs = {**batch, "use_cache": False}
        if targets == 0:
            inputs["labels"] = with_one_target(batch)
        if record is None:
            inputs.pop("token_kinds", None)
        else:
            inputs["routing_record"] = record
        return inputs


def _price(engine: Engine, config: TrainingConfig) -> StepFlops | None:
    device = engine.ranks.device
    if device.type != "cuda":
        return None
    return StepFlops.of_model(engine.model, config, torch.cuda.get_device_name(device))
