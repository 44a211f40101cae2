import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.artifacts.manifest import committed_for
from orchestrator.durable import read_status
from orchestrator.durable.states import RunState
from orchestrator.ownership import Lease, RunOwnedError
from orchestrator.ownership.epochs import last_epoch
from tests.orchestrator.durable.fakes import Steps

ROOT = Path(__file__).parents[3]


@pytest.fixture
def driver(steps: Steps, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A driver that hangs in the middle of step b."""
    module = "tests.orchestrator.durable.driver"
    command = [sys.executable, "-m", module, steps.store.url, str(tmp_path / "log")]
    process = subprocess.Popen(command, cwd=ROOT)
    while not (tmp_path / "log.hanging").exists():
        assert process.poll() is None, "the driver ended by itself"
        time.sleep(0.02)
    yield process
    process.kill()
    process.wait()


def test_a_killed_driver_loses_only_the_step_it_was_in(
    driver: subprocess.Popen[bytes], steps: Steps
) -> None:
    assert read_status(steps.store, "run").state is RunState.RUNNING
    driver.kill()
    driver.wait()
    assert read_status(steps.store, "run").state is RunState.RESUMABLE
    assert committed_for(steps.store, "b") == []

    listener = steps.run(steps.chain("write", "hang_once", "write"))

    assert steps.ran() == ["a", "b", "b", "c"]
    assert listener.events_of("reused", "finished") == ["a reused", "b finished", "c finished"]
    assert last_epoch(steps.store, "run") == 2
    (manifest,) = committed_for(steps.store, "b")
    left = [path for path in steps.store.list("artifacts") if manifest.key.digest in path]
    assert all(path.startswith(manifest.root) for path in left), "the orphan is removed"
    assert steps.store.list("checkpoints") == []


def test_a_living_driver_keeps_its_run(driver: subprocess.Popen[bytes], steps: Steps) -> None:
    with pytest.raises(RunOwnedError, match=f"driven by process {driver.pid} on"):
        steps.run(steps.chain(), clock=time, lease=Lease(ttl_s=60.0, beat_s=0.2))
    assert driver.poll() is None
    assert steps.ran() == ["a", "b"]


def test_a_reused_run_imports_neither_ray_nor_torch(steps: Steps, tmp_path: Path) -> None:
    steps.run(steps.chain())
    code = f"""
import sys
from pathlib import Path
from orchestrator.durable import Runner, open_store, plan
from orchestrator.ray_connection import on_ray
from tests.orchestrator.durable.fakes import Steps
store = open_store({steps.store.url!r})
chain = Steps(store, Path({str(tmp_path / "log")!r})).chain()
assert [step.action for step in plan(store, chain)] == ["reuse"] * 3
Runner("run", chain, store, start_executor=on_ray(sys.exit)).run()
loaded = {{"ray", "torch", "mlflow", "transformers", "fsspec", "pydantic"}} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
