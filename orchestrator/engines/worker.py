"""What one worker of a training does, from an empty process to the files of the result."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective
import torch
import torch.distributed as dist
from transformers.utils import logging as transformers_logging

from orchestrator.engines.deepspeed import DeepSpeedEngine
from orchestrator.engines.job import TrainingJob
from orchestrator.engines.machine import Watch, node_name
from orchestrator.scratch import scratch
from workloads.training import Ranks
from workloads.training.session import Session

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""After this a worker gives up waiting for the others."""


def train_worker(job: TrainingJob) -> dict[str, Any]:
    """Train on this rank; rank 0 writes the result and returns what was measured.

    Of more workers than can share the batch the last ones do nothing.
    """
    _prepare_process(job.threads)
    offered: int = ray.train.get_context().get_world_size()
    size = job.config.usable_ranks(offered)
    if not _join_process_group(size):
        return {}
    if size < offered:
        # Ray's notices are for all workers together.
        job = replace(job, hears_of_preemption=False)
    try:
        with scratch() as folder, _watch(job):
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


def _join_process_group(size: int) -> bool:
    """Meet the other workers at a port that rank 0 opens; False for one that is not needed."""
    context = ray.train.get_context()
    rank = context.get_world_rank()
    os.environ["LOCAL_RANK"] = str(context.get_local_rank())
    address: tuple[str, int] | None = None
    if rank == 0:
        host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        address = host, store.port
    host, port = ray.train.collective.broadcast_from_rank_zero(address)
    if rank >= size:
        return False
    if rank != 0:
        store = dist.TCPStore(host, port, is_master=False)  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=size, timeout=COLLECTIVE_TIMEOUT
    )
    return True


def _watch(job: TrainingJob) -> AbstractContextManager[object]:
    """On one rank of each machine: tell how busy it is."""
    context = ray.train.get_context()
    if not job.watches_machines or context.get_local_rank() != 0:
        return nullcontext()
    is_alone = context.get_local_world_size() == context.get_world_size()
    return Watch(job.reporter, node="" if is_alone else node_name())


def _train(job: TrainingJob, ranks: Ranks, scratch: Path) -> dict[str, Any]:
    job = job.on_this_machine(scratch)
    session = Session(model=job.model, shard=job.shard, config=job.config, reporter=job.reporter)
    weights, result = session.train(
        ranks,
        DeepSpeedEngine,
        job.checkpoints.open(ranks, job.reporter.message),
        notice=_preemption if job.hears_of_preemption else None,
        stop_at_s=job.stop_at_s,
    )
    if weights is not None:
        with job.result_folder(scratch) as folder:
            session.write(folder, weights, result)
    return {
        "steps": job.config.steps,
        "resumed_at": result.resumed_at,
        "seconds": result.seconds,
        "workers": ranks.size,
        "signals": list(result.signals),
    }


def _preemption() -> str | None:
    """Tell which machines are about to be taken away; all ranks hear the same."""
    info = ray.train.get_preemption_info()
    if info is None:
        return None
    return f"node {', '.join(sorted(info.preempted_node_to_ranks))} is about to be taken away"
