"""Connects this process to Ray: a cluster that is there, or one on this machine."""

import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.durable.executor import Executor, Send, StartExecutor
from orchestrator.store import DurableError

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
}
"""Of every worker: threads are set explicitly, since a worker per core oversubscribes easily."""
_SHORT_FOLDER = "/tmp"
_LONGEST_FOLDER = 107 - len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Characters of a folder for temporary files: sockets lie below it, and Linux allows them 107."""


@dataclass(eq=False)
class RayUnavailableError(DurableError):
    """Ray does not start or does not answer; what was committed before stays."""

    reason: str

    @property
    def exit_code(self) -> int:
        """3: machines that are short of memory or starting are ready at another time."""
        return 3

    def __str__(self) -> str:
        return self.reason


def connect(address: str | None, *, uses_gpus: bool) -> None:
    """Start or join Ray; a second call does nothing.

    Args:
        address: Of a running cluster, such as ``auto`` or ``ray://head:10001``; None starts
            Ray on this machine, for this process only.
        uses_gpus: Whether workers take GPUs; on a machine without, DeepSpeed is told to use CPUs.

    Raises:
        RayUnavailableError: If Ray does not start, or does not answer.
    """
    import ray

    if ray.is_initialized():
        return
    environment = WORKER_ENVIRONMENT | ({} if uses_gpus else {"DS_ACCELERATOR": "cpu"})
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        # Workers inherit the environment, which starts faster than a runtime environment.
        os.environ.update({"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", **environment})
        options |= {"address": "local", "num_cpus": os.cpu_count(), "include_dashboard": False}
        options |= _session_folder()
    else:
        options |= {"address": address, "runtime_env": {"env_vars": environment}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            ray.init(**options)
    except Exception as error:  # Ray raises bare ones
        where = "on this machine does not start" if address is None else f"at {address} is no use"
        advice = "give the same command again, or see `gammaray doctor`"
        raise RayUnavailableError(f"Ray {where} ({error}): {advice}") from error


def _session_folder() -> dict[str, str]:
    """Where Ray's sessions go if the folder for temporary files is too deep for its sockets."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or _SHORT_FOLDER
    is_short = len(os.fsencode(folder)) <= _LONGEST_FOLDER
    return {} if is_short else {"_temp_dir": f"{_SHORT_FOLDER}/ray"}


def on_ray(start_cluster: Callable[[], None], *, patience_s: float | None = None) -> StartExecutor:
    """Executor on Ray; Ray is imported and ``start_cluster`` called when a step must run.

    Args:
        start_cluster: Connects this process to Ray.
        patience_s: How long the cluster's head may be silent before the run ends, resumable.
    """

    def start(send: Send) -> Executor:
        from orchestrator.ray_cluster import PATIENCE_S
        from orchestrator.ray_executor import RayExecutor

        start_cluster()
        return RayExecutor(send, PATIENCE_S if patience_s is None else patience_s)

    return start
