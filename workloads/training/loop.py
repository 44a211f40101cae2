"""One loop for alignment and fine-tuning, alone, under torchrun and under Ray Train."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from workloads.reporting import Reporter
from workloads.training.checkpoints.saver import Notice, Saver
from workloads.training.checkpoints.store import CheckpointStore
from workloads.training.config import TrainingConfig
from workloads.training.engine import Engine
from workloads.training.micro_batch import Batches
from workloads.training.out_of_memory import advice_on_memory
from workloads.training.rng import seed_all
from workloads.training.steps import Point, Steps
from workloads.training.validation import Validator


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

    signals: tuple[Point, ...] = ()
    """The last 200 reports of speed, memory and routing, as reporters heard them and by ``step``;
    those before a resume included."""


def train(
    engine: Engine,
    batches: Batches,
    config: TrainingConfig,
    *,
    reporter: Reporter,
    checkpoints: CheckpointStore,
    validator: Validator | None = None,
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
        validator: Measures as ``config.validation`` says; None if it says nothing.
        report_every: Steps between reports; the history has every step.
        notice: Says when to save at once; see `Notice`.
        stop_at_s: When to save and stop, in seconds since the epoch.

    Raises:
        TrainingStoppedError: If the time is up; call it again to go on.
        TrainingError: If a guard stops the training, or a global batch has no answer tokens.
            Nothing of that step is in any checkpoint. Or, with advice, if memory runs out.
    """
    seed_all(config.seed, engine.ranks.rank)
    run = Steps(engine, batches, config, reporter, validator)
    saver = Saver(
        checkpoints, engine, config, run.save, reporter, notice=notice, stop_at_s=stop_at_s
    )
    advice = partial(
        advice_on_memory, engine.model, config, engine.ranks, can_shard=engine.can_shard
    )
    with advice():
        restored = checkpoints.restore(engine.layout, run.load)
    if not restored and config.guards.may_roll_back:
        saver.save(0)
    done = resumed_at = restored or 0
    if engine.ranks.is_first:
        reporter.progress(resumed_at, config.steps)
        if resumed_at:
            reporter.message(f"continuing after step {resumed_at} of {config.steps}")
    run.meter.restart()
    started = time.monotonic()
    while done < config.steps:
        with advice(step=done + 1):
            decision = run.advance(done, saver) or run.validate(done + 1, saver)
        if decision is not None:
            done = run.roll_back(checkpoints, decision)
            continue
        done += 1
        if done % report_every == 0 or done == config.steps or run.validates(done):
            run.report(saver.left_s(done))
        if done < config.steps:
            saver.after(done, run.watch)
    saver.finish()
    run.end(checkpoints)
    seconds = time.monotonic() - started
    return TrainingResult(
        tuple(run.history),
        resumed_at,
        seconds,
        tuple(run.watch.memory.events),
        signals=tuple(run.signals),
    )
