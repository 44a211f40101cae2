"""Connects this process to Ray: a cluster that is there, or one on this machine."""

import logging
import os
import warnings

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
}
"""Of every worker: threads are set explicitly, since a worker per core oversubscribes easily."""


def connect(address: str | None, *, uses_gpus: bool) -> None:
    """Start or join Ray; a second call does nothing.

    Args:
        address: Of a running cluster, such as ``auto`` or ``ray://head:10001``; None starts
            Ray on this machine, for this process only.
        uses_gpus: Whether workers take GPUs; on a machine without, DeepSpeed is told to use CPUs.
    """
    import ray

    if ray.is_initialized():
        return
    environment = WORKER_ENVIRONMENT | ({} if uses_gpus else {"DS_ACCELERATOR": "cpu"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if address is None:
            # Workers inherit the environment, which starts faster than a runtime environment.
            os.environ.update({"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", **environment})
            ray.init(
                address="local",
                num_cpus=os.cpu_count(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            ray.init(
                address=address,
                runtime_env={"env_vars": environment},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
