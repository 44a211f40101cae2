"""What users and machines get wrong: a typed error, the exit code, and a run that goes on."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.artifacts import ArtifactChangedError
from orchestrator.durable import Retry, StepFailedError, open_store, read_status
from orchestrator.durable.errors import StepError
from orchestrator.durable.states import RunState
from orchestrator.ownership import Lease, RunOwnedError, claim
from orchestrator.store import DurableError, StoreError
from tests.orchestrator.durable.fakes import FakeClock, Steps

Situation = Callable[[Steps, pytest.MonkeyPatch], None]


def cycle(steps: Steps, patch: pytest.MonkeyPatch) -> None:
    steps.run([steps.step("a", inputs={"b": "b"}), steps.step("b", inputs={"a": "a"})])


def parameter_that_is_no_json(steps: Steps, patch: pytest.MonkeyPatch) -> None:
    steps.run([steps.step("a", params={"call": print})])


def output_that_is_no_file(steps: Steps, patch: pytest.MonkeyPatch) -> None:
    steps.run(steps.chain("write", "link"))


def artifact_changed_on_disk(steps: Steps, patch: pytest.MonkeyPatch) -> None:
    steps.run(steps.chain("write"))
    (text,) = [path for path in steps.store.list("artifacts") if path.endswith("result/text")]
    place = steps.store.local_path(text)
    assert place is not None
    place.write_text(place.read_text() + "more")
    steps.run(steps.chain("write", "write"))


def store_of_a_newer_format(steps: Steps, patch: pytest.MonkeyPatch) -> None:
    steps.store.overwrite("format.json", b'{"format": 99}')
    open_store(steps.store.url)


def name_that_escapes(steps: Steps, patch: pytest.MonkeyPatch) -> None:
    steps.run([steps.step("../../etc")])


def object_that_escapes(steps: Steps, patch: pytest.MonkeyPatch) -> None:
    steps.store.create("runs/../../etc/passwd", b"")


def two_drivers(steps: Steps, patch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    clock.on_sleep = claim(steps.store, "run", lease=Lease(), clock=clock, tell=str).beat
    steps.run(steps.chain(), clock=clock)


def disk_full_in_the_middle_of_a_commit(steps: Steps, patch: pytest.MonkeyPatch) -> None:
    link = os.link

    def full(source: Path, target: Path) -> None:
        if "manifests" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        link(source, target)

    patch.setattr("orchestrator.store.local.os.link", full)
    steps.run([steps.step("a", retry=Retry(system=0))])


@pytest.mark.parametrize(
    ("situation", "kind", "code", "reason"),
    [
        (cycle, StepError, 2, "wait for each other in a circle: a, b"),
        (parameter_that_is_no_json, StepError, 2, r"params\.call must be JSON"),
        (output_that_is_no_file, StepFailedError, 1, "is a link or a special file"),
        (artifact_changed_on_disk, ArtifactChangedError, 1, "changed after its commit"),
        (store_of_a_newer_format, StoreError, 2, "format 99, this version reads"),
        (name_that_escapes, StepError, 2, r"name must match .* got '\.\./\.\./etc'"),
        (object_that_escapes, StoreError, 2, "escapes the store"),
        (two_drivers, RunOwnedError, 2, "is being driven by process"),
        (disk_full_in_the_middle_of_a_commit, StepFailedError, 3, "No space left.*free some"),
    ],
)
def test_it_is_named_and_the_run_goes_on_afterwards(
    steps: Steps, situation: Situation, kind: type[DurableError], code: int, reason: str
) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(kind, match=reason) as caught:
        situation(steps, patch)
    assert caught.value.exit_code == code
    steps.store.delete("format.json")
    steps.store.create("runs/run/epochs/000001/released", b"")
    steps.run(steps.chain("write", rate=1), redo={"a"})
    assert read_status(steps.store, "run").state is RunState.SUCCEEDED


def test_a_lease_of_a_dead_host_is_waited_for_and_taken_over(steps: Steps) -> None:
    claim(steps.store, "run", lease=Lease(), clock=FakeClock(), tell=str)
    path = "runs/run/epochs/000001/owner.json"
    owner = json.loads(steps.store.read(path)) | {"host": "a-host-that-is-gone"}
    steps.store.overwrite(path, json.dumps(owner).encode())
    clock = FakeClock()
    heard = steps.run(steps.chain("write"), clock=clock).heard
    assert "on a-host-that-is-gone (epoch 1); waiting up to 30 s" in heard[0]
    assert clock.now_s >= 1030
    assert read_status(steps.store, "run").epoch == 2
