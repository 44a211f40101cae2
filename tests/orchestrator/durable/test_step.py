import pickle
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from orchestrator.artifacts import ArtifactChangedError
from orchestrator.durable import External, Resources, Step
from orchestrator.durable import errors as all_errors
from orchestrator.durable.errors import StepError, StepFailedError
from orchestrator.ownership import OwnershipLostError, RunOwnedError
from orchestrator.store import DurableError, StoreError


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "../escape"}, r"name must match .* got '\.\./escape'"),
        ({"inputs": {"a/b": "data"}}, "got 'a/b'"),
        ({"function": "no-module"}, 'expected "package.module:function"'),
        ({"validate": "also wrong"}, 'expected "package.module:function"'),
        ({"version": 0}, "at least 1, got 0"),
        ({"params": {"path": Path("/data")}}, r"params\.path must not be a path"),
        ({"settings": {"call": print}}, r"settings\.call must be JSON"),
    ],
)
def test_a_wrong_step_is_refused_where_it_is_declared(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(StepError, match=reason) as caught:
        Step(**{"name": "align", "function": "stages.align:align", **fields})
    assert caught.value.exit_code == 2


def test_an_input_from_outside_is_known_by_its_digest() -> None:
    source = External(digest="ab", path="/data/train.json")
    step = Step(name="data", function="stages.data:data", inputs={"json": source})
    assert step.inputs["json"] == source


def test_a_step_holds_plain_json_whatever_it_was_given() -> None:
    step = Step(name="a", function="m:f", params=MappingProxyType({"layers": (1, 2)}))
    assert step.params == {"layers": [1, 2]}
    assert pickle.loads(pickle.dumps(step)) == step


def test_resources_count_the_workers_that_a_step_starts() -> None:
    needs = Resources(cpus=0, worker_cpus=2, gpus=0.5, worker_gpus=4)
    assert (needs.all_cpus, needs.all_gpus) == (2, 4.5)
    with pytest.raises(ValueError, match="worker_cpus must not be negative, got -1"):
        Resources(worker_cpus=-1)


@pytest.mark.parametrize(
    "error",
    [
        StepError("a", "wrong"),
        StoreError("file:///x", "a", reason="full", error_number=28),
        StepFailedError("a", "system", "OSError", message="m", traceback_text="t"),
        ArtifactChangedError("a", "/x", "missing"),
        RunOwnedError("r", owner="process 1"),
        OwnershipLostError("r", 1, "taken"),
        all_errors.ClusterError("too small"),
    ],
)
def test_errors_survive_the_way_between_processes(error: DurableError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.exit_code == error.exit_code in (1, 2, 3)
