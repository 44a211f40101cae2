"""Running a training under Ray Train, with our own checkpoints in the run's store.

Ray Train starts the workers, watches them and starts all of them again when one is lost; where
to continue is decided by the workers, from the newest good checkpoint. So a lost worker, a killed
driver and a restarted job are one and the same case.

The workers join their process group themselves: Ray Train's torch backend would import torch into
the stage and into Ray Train's controller, seconds of start-up in processes that compute nothing.
"""

import json
import math
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray.train import ControllerError, UserCallback
from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from orchestrator.checkpoints import CheckpointPlace
from orchestrator.durable import StepContext
from orchestrator.engines.exchange import Exchange
from orchestrator.engines.job import TrainingJob
from workloads.errors import WorkloadError
from workloads.training import TrainingConfig, TrainingError

_RAY_TRAIN_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A training may have to wait for another one's workers.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "900",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
"""What Ray Train reads from the environment of the process that starts a training."""

_PERMANENT = (WorkloadError, ValueError)
"""Errors that would come again; what a lost worker does to the others is a RuntimeError."""


def run_training(context: StepContext, config: TrainingConfig) -> None:
    """Train on Ray workers; write ``model/`` and ``history.json``, and ``training.json`` beside.

    The inputs are ``model`` (a model folder, or a directory with one in ``model/``) and ``data``
    (a directory with ``train.arrow``). Settings: ``workers``, or the fewest and the most; per
    worker ``cpus`` and ``gpus``; ``max_failures``, how many lost workers are survived.

    Raises:
        TrainingError: If the batch cannot be shared by the workers, or training has to stop.
        WorkloadError: If the model or the data cannot be used.
        TrainingFailedError: If more workers were lost than ``max_failures``.
    """
    settings: Mapping[str, Any] = context.settings
    workers, needs = settings["workers"], _needs(settings)
    fewest, most = (workers, workers) if isinstance(workers, int) else workers
    config.rows_of_a_rank(fewest)
    most = max(fewest, min(most, _room_for(needs)))
    job = _job(context, config, threads=max(1, int(needs["CPU"])))
    context.reporter.progress(0, config.steps, note=_starting(fewest, most))
    job.send_inputs()
    with tempfile.TemporaryDirectory(prefix="ray-train-") as scratch, _own_interrupts():
        trainer = _Trainer(
            partial(_train_worker, job),
            scaling_config=ScalingConfig(
                num_workers=fewest if fewest == most else (fewest, most),
                use_gpu=needs["GPU"] > 0,
                resources_per_worker=needs,
                # Only at a restart: a healthy training loses steps by it.
                elastic_resize_monitor_interval_s=math.inf,
            ),
            run_config=RunConfig(  # type: ignore[arg-type]
                name=context.step,
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=settings.get("max_failures", 3)),
                callbacks=[_StopOnUserError()],
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        started_s = time.monotonic()
        measured = _fit(trainer)
    measured["total_seconds"] = time.monotonic() - started_s
    job.fetch_result()
    (context.measurement / "training.json").write_text(json.dumps(measured, indent=1))


def training_config(context: StepContext) -> TrainingConfig:
    """Read a training stage's params, and the settings that are no part of its key.

    Raises:
        TrainingError: If a field is unknown, missing or out of range.
    """
    params: Mapping[str, Any] = context.params
    fields = {**params["training"], "seed": params["seed"]}
    for name in ("checkpoint_every", "hours_between_failures"):
        if name in context.settings:
            fields[name] = context.settings[name]
    try:
        return TrainingConfig.from_json(fields)
    except (TypeError, ValueError) as error:
        raise TrainingError(f"step {context.step}: {error}") from error


class _Trainer(DataParallelTrainer):
    """Ray Train's trainer without the process that would serve Ray Data, which is not used."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if type(each).__name__ != "DatasetsCallback"]


class _StopOnUserError(UserCallback):
    """Ends a training at an error that would come again, instead of restarting the workers."""

    def after_exception(
        self,
        run_context: Any,  # noqa: ANN401 - Ray's signature
        worker_exceptions: Mapping[int, Exception],
    ) -> None:
        """Raise what a user has to put right; Ray Train takes that for the end."""
        for error in worker_exceptions.values():
            cause = getattr(error, "_base_exc", error)
            if isinstance(cause, _PERMANENT):
                raise cause


def _train_worker(job: TrainingJob) -> dict[str, Any]:
    # Only workers import torch and DeepSpeed.
    from orchestrator.engines.worker import train_worker

    return train_worker(job)


def _fit(trainer: DataParallelTrainer) -> dict[str, Any]:
    try:
        result: Any = trainer.fit()
    except ControllerError as error:
        if isinstance(error.controller_failure, _PERMANENT):
            raise error.controller_failure from None
        raise
    measured: dict[str, Any] = result.return_value
    return measured


def _job(context: StepContext, config: TrainingConfig, *, threads: int) -> TrainingJob:
    model = context.inputs["model"].path
    checkpoints = CheckpointPlace.of(context)
    return TrainingJob(
        config=config,
        model=model / "model" if (model / "model").is_dir() else model,
        shard=context.inputs["data"].path / "train.arrow",
        output=context.output,
        checkpoints=checkpoints,
        exchange=Exchange(
            store_url=checkpoints.store_url,
            prefix=f"{checkpoints.prefix}/{checkpoints.writer}-files",
        ),
        reporter=context.reporter,
        threads=threads,
        stop_at_s=context.stop_at_s,
        watches_machines=bool(context.settings.get("system_metrics", False)),
        hears_of_preemption=_has_several_nodes(),
    )


def _starting(fewest: int, most: int) -> str:
    return f"starting {fewest}{'' if fewest == most else f' to {most}'} workers"


def _room_for(needs: Mapping[str, float]) -> int:
    """Workers that what is free now has room for: Ray Train counts what there is at all."""
    free: Mapping[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    rooms = [free.get(name, 0.0) // amount for name, amount in needs.items() if amount > 0]
    return int(min(rooms, default=1))


def _has_several_nodes() -> bool:
    return sum(node["Alive"] for node in ray.nodes()) > 1  # type: ignore[no-untyped-call]


def _needs(settings: Mapping[str, Any]) -> dict[str, float]:
    needs = {"CPU": settings.get("cpus", 1), "GPU": settings.get("gpus", 0)}
    return {resource: float(amount) for resource, amount in needs.items()}


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Give Ray Train its settings, and take back the interrupt handler it installs."""
    # The watcher for machines about to be taken away is one more process to start.
    watcher = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1" if _has_several_nodes() else "0"}
    os.environ.update(_RAY_TRAIN_SETTINGS | watcher)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
