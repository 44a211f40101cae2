"""What one worker of a training does, from an empty process to the files of the result."""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin
from transformers.utils import logging as transformers_logging

from orchestrator.engines.deepspeed import DeepSpeedEngine
from orchestrator.engines.job import TrainingJob
from orchestrator.scratch import scratch
from workloads.data import Encoder, TrainingBatches, open_shard
from workloads.mod import calibrate_threshold, is_converted, mod_config
from workloads.model_folder import open_model_folder, save_model_folder
from workloads.training import (
    Ranks,
    TrainingConfig,
    TrainingError,
    TrainingResult,
    blank_image_for_text,
    blank_image_inputs,
    choose_parts,
    named_parts,
    train,
    weights_digest,
)

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""After this a worker gives up waiting for the others."""

CALIBRATION_SAMPLES = 256
"""Training samples that set the inference threshold; the first ones of the order."""


def train_worker(job: TrainingJob) -> dict[str, Any]:
    """Train on this rank; rank 0 writes the result and returns what was measured."""
    _prepare_process(job.threads)
    _join_process_group()
    try:
        with scratch() as folder:
            return _train(job, Ranks.current(), folder)
    finally:
        dist.destroy_process_group()


def _prepare_process(threads: int) -> None:
    torch.set_num_threads(threads)
    # DeepSpeed looks for ninja on the path; it is installed beside the interpreter.
    beside = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([beside, os.environ.get("PATH", os.defpath)])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _join_process_group() -> None:
    """Meet the other workers at a port that rank 0 opens."""
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    os.environ["LOCAL_RANK"] = str(context.get_local_rank())
    address: tuple[str, int] | None = None
    if rank == 0:
        host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        address = host, store.port
    host, port = ray.train.collective.broadcast_from_rank_zero(address)
    if rank != 0:
        store = dist.TCPStore(host, port, is_master=False)  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT
    )


def _train(job: TrainingJob, ranks: Ranks, scratch: Path) -> dict[str, Any]:
    config = job.config
    rows = config.rows_of_a_rank(ranks.size)
    job = job.on_this_machine(scratch)
    model, processor = open_model_folder(job.model)
    choose_parts(model, config.trainable)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable()
    batches = TrainingBatches(
        open_shard(job.shard),
        Encoder(processor),
        global_batch=config.global_batch,
        micro_batch=config.micro_batch or rows,
        seed=config.seed,
        rank=ranks.rank,
        world_size=ranks.size,
    )
    engine = DeepSpeedEngine(model, config, ranks=ranks)
    with blank_image_for_text(model, blank_image_inputs(model, processor)):
        result = train(
            engine,
            batches,
            config,
            reporter=job.reporter,
            checkpoints=job.checkpoints.open(ranks, job.reporter.message),
        )
    weights = engine.full_weights()
    if weights is not None:
        with job.result_folder(scratch) as folder:
            _write_result(job, folder, weights, result)
    return {
        "steps": config.steps,
        "resumed_at": result.resumed_at,
        "seconds": result.seconds,
        "workers": ranks.size,
    }


def _write_result(
    job: TrainingJob, output: Path, weights: dict[str, Tensor], result: TrainingResult
) -> None:
    """Put the weights into a fresh model, which no engine has hooks in, and save that."""
    model, processor = open_model_folder(job.model)
    digest = _frozen_digest(model, weights, job.config)
    dtype = next(weight.dtype for weight in weights.values() if weight.is_floating_point())
    nn.Module.to(model, dtype)
    model.load_state_dict(weights)
    if is_converted(model) and mod_config(model).inference == "threshold":
        threshold = calibrate_threshold(model, _calibration_batches(job, processor))
        job.reporter.message(f"inference threshold calibrated to {threshold:.4f}")
    save_model_folder(model, processor, output / "model")
    history: dict[str, Any] = {"points": list(result.history), "frozen_digest": digest}
    if result.events:
        history["events"] = list(result.events)
    (output / "history.json").write_text(json.dumps(history, indent=1))


def _frozen_digest(
    before: PreTrainedModel, after: dict[str, Tensor], config: TrainingConfig
) -> str:
    """Digest of the weights that were not to learn, in the precision of training.

    Raises:
        TrainingError: If one of them changed.
    """
    frozen = {
        name: weight.detach().to(after[name].dtype)
        for name, weight, part in named_parts(before)
        if part not in config.trainable
    }
    digest = weights_digest(frozen)
    if digest != weights_digest({name: after[name] for name in frozen}):
        changed = [name for name in frozen if not torch.equal(frozen[name], after[name])]
        raise TrainingError(
            f"frozen weights changed in training: {', '.join(changed[:3])}; nothing was saved. "
            "This is a defect, please report it with the recipe"
        )
    return digest


def _calibration_batches(job: TrainingJob, processor: ProcessorMixin) -> list[dict[str, Tensor]]:
    """The same samples whatever the number of workers."""
    size = job.config.global_batch
    batches = TrainingBatches(
        open_shard(job.shard),
        Encoder(processor),
        global_batch=size,
        micro_batch=size,
        seed=job.config.seed,
    )
    steps = range(max(1, CALIBRATION_SAMPLES // size))
    return [batch for step in steps for batch in batches.at(step)]
