"""A training on its way: its history, and how to do one step, measure, save and load.

The loss of an optimizer step is the mean over all answer tokens of the *global* batch: each
micro-batch's mean counts by its tokens, so neither the number of ranks nor the size of
micro-batches changes what is minimised.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch

from workloads.mod import RoutingRecord, is_converted, mod_config
from workloads.reporting import Reporter
from workloads.training.checkpoints.saver import Saver
from workloads.training.checkpoints.store import CheckpointStore
from workloads.training.config import TrainingConfig
from workloads.training.engine import Engine
from workloads.training.errors import TrainingError
from workloads.training.flops import StepFlops
from workloads.training.means import StepMeans
from workloads.training.meter import Meter
from workloads.training.micro_batch import (
    Batches,
    count_targets,
    is_broken,
    to_device,
    training_inputs,
)
from workloads.training.rng import random_state, restore_random_state
from workloads.training.router_health import RouterHealth, entropies
from workloads.training.schedule import rate_factor
from workloads.training.validation import Validator
from workloads.training.watch import Event, Figures, Memory, Watch

_KEPT_REPORTS = 200
"""Who hears nothing for longer has only the history, which has every step."""

Point = dict[str, float]
"""Metrics of one optimizer step, ``step`` (1-based) among them."""


class Steps:
    """The steps of one training; all ranks make the same calls.

    Args:
        engine: Holds the model, whose parts have been chosen.
        batches: This rank's batches.
        config: How long and how fast.
        reporter: Hears metrics from rank 0.
        validator: Measures as ``config.validation`` says; None if it says nothing.
    """

    def __init__(
        self,
        engine: Engine,
        batches: Batches,
        config: TrainingConfig,
        reporter: Reporter,
        validator: Validator | None,
    ) -> None:
        self.history: list[Point] = []
        self.signals: list[Point] = []
        """The last reports of how it went, for who was not there to hear them."""
        rates = f"learning_rate (now {config.learning_rate:g}) or clip_norm"
        self.watch = Watch(config.guards, f"lower {rates} (now {config.clip_norm:g})")
        self._engine, self._batches = engine, batches
        self._config, self._reporter, self._validator = config, reporter, validator
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
        if decision.action == "skip":
            finite = {name: value for name, value in point.items() if math.isfinite(value)}
            self.history.append({**finite, "skipped": 1.0})
            return None
        return _leave(decision, saver)

    def validates(self, done: int) -> bool:
        """Whether held-out samples are measured after ``done`` steps."""
        plan = self._config.validation
        return plan is not None and (done % plan.every == 0 or done == self._config.steps)

    def validate(self, done: int, saver: Saver) -> Event | None:
        """Measure held-out samples if it is their turn after ``done`` steps; see `advance`."""
        if self._validator is None or not self.validates(done):
            return None
        with self.meter.paused():
            loss = self._validator.loss(self._engine)
            share = self._validator.degenerate_share(self._engine)
        self.history[-1]["validation_loss"] = loss
        if self._validator.keeps_best:
            self.watch.note_loss(done, loss)
        if share is None:
            return None
        self.history[-1]["degenerate_answers"] = share
        event = self.watch.judge_answers(done, share)
        if event is None:
            return None
        self._tell(event)
        return None if event.action == "warn" else _leave(event, saver)

    def end(self, checkpoints: CheckpointStore) -> None:
        """Return to the best checkpoint if that is wanted and it is not the last state."""
        plan, best = self._config.validation, self.watch.memory.best
        if plan is None or plan.best != "use" or best in (None, self._config.steps):
            return
        history, signals, memory = self.history, self.signals, self.watch.memory
        restored = checkpoints.roll_back(best, self._engine.layout, self.load)
        self.history, self.signals, self.watch.memory = history, signals, memory
        if restored != best:
            raise TrainingError(
                f"the checkpoint of step {best}, which has the lowest validation_loss, cannot be "
                "read: start the step again, or set validation.best to keep"
            )
        if self._engine.ranks.is_first:
            self._reporter.message(
                f"the weights of step {best} are used: validation_loss is lowest"
            )

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
            inputs = training_inputs(batch, count, is_mod=self._mod is not None)
            loss = engine.forward(inputs | _recorded(record)).loss
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
        for event in events:
            self._tell(event)
        return events[-1] if events else None

    def _tell(self, event: Event) -> None:
        if self._engine.ranks.is_first:
            self._reporter.message(f"step {event.step}: {event.action}: {event}")
            self._reporter.metrics(event.step, {f"guard/{event.guard}": event.value})

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
        self.signals = [*self.signals[1 - _KEPT_REPORTS :], {"step": step, **named}]
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
            (folder / "signals.json").write_text(json.dumps(self.signals))
            (folder / "guards.json").write_text(json.dumps(self.watch.memory.to_json()))

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint's files; a rank that is new to it keeps its own seed."""
        history: list[Point] = json.loads((folder / "history.json").read_text())
        if history or self.history:  # Else both are at the start, and optimizers without state.
            self._engine.load(folder)
        self.history = history
        self._batches.load(folder)
        signals_file = folder / "signals.json"
        self.signals = json.loads(signals_file.read_text()) if signals_file.exists() else []
        memory_file = folder / "guards.json"
        memory = json.loads(memory_file.read_text()) if memory_file.exists() else {}
        self.watch.memory = Memory.from_json(memory)
        random_file = folder / f"random-{self._engine.ranks.rank:05d}.pt"
        if random_file.exists():
            restore_random_state(torch.load(random_file, weights_only=True))


def _recorded(record: RoutingRecord | None) -> dict[str, Any]:
    return {} if record is None else {"routing_record": record}


def _leave(decision: Event, saver: Saver) -> Event:
    """What has been saved is kept, and then the training stops, or goes back."""
    saver.finish()
    if decision.action == "stop":
        raise TrainingError(str(decision), decision.step)
    return decision


def _price(engine: Engine, config: TrainingConfig) -> StepFlops | None:
    device = engine.ranks.device
    if device.type != "cuda":
        return None
    return StepFlops.of_model(engine.model, config, torch.cuda.get_device_name(device))
