"""What all tests share: a quiet process environment and, where asked for, a Ray."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.ray_head import RayHead, ray_head_node

# Read by libraries when they are imported, so they are set before any test module is.
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Without these, Ray would write a token into the home directory.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
    }
)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray with two CPUs in this process, started by the first test that asks for it."""
    import ray

    folder = tempfile.mkdtemp(prefix="gr-", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,  # as a command connects: standard output is its own
        _temp_dir=folder,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def ray_head() -> Iterator[RayHead]:
    """A ``ray start --head`` that takes jobs; ended with the module, since it keeps CPUs busy."""
    with ray_head_node() as head:
        yield head
