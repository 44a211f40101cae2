"""Random graphs, crashes at random operations of the store, and resumes: nothing is done twice.

A crash is an exception that no code handles, raised before or after any operation that changes
the store, as if the process had died there. Everything after it fails too, clean-up included.
"""

import math
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator.artifacts.manifest import read_manifest
from orchestrator.durable import InProcessExecutor, Runner, Step, open_store
from orchestrator.durable.executor import Capacity, Send
from orchestrator.durable.schedule import Schedule
from orchestrator.ownership import Lease
from orchestrator.store.local import LocalStore
from tests.orchestrator.durable.fakes import HERE

_CHANGING = ("create", "overwrite", "delete", "upload")


class Crashed(BaseException):
    """The process is gone."""


class Fragile(LocalStore):
    """A store of a process that dies at its n-th change."""

    __slots__ = ("left",)

    def __init__(self, root: Path, left: float) -> None:
        super().__init__(root)
        object.__setattr__(self, "left", [left])

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in _CHANGING:
            return found

        def call(*args: object, **kwargs: object) -> object:
            self.left[0] -= 0.5
            if self.left[0] <= 0:
                raise Crashed(f"before {name}")
            result = found(*args, **kwargs)
            self.left[0] -= 0.5
            if self.left[0] <= 0:
                raise Crashed(f"after {name}")
            return result

        return call


class Crashes(RuleBasedStateMachine):
    """Grows and changes a graph, crashes in it, resumes it, and compares with undisturbed runs."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="gr-crash-")
        self._root, self._log = Path(self._folder.name, "store"), Path(self._folder.name, "log")
        self._steps: list[Step] = []
        self._seen: dict[str, tuple[str, int]] = {}
        open_store(str(self._root))

    @precondition(lambda self: len(self._steps) < 6)
    @rule(data=st.data(), is_kept=st.sampled_from([True, True, True, False]))
    def add_step(self, data: st.DataObject, is_kept: bool) -> None:
        names = [step.name for step in self._steps]
        sources = data.draw(st.sets(st.sampled_from(names))) if names else set()
        self._steps.append(
            Step(
                name=f"s{len(names)}",
                function=f"{HERE}:write_by_key",
                inputs={source: source for source in sorted(sources)},
                params={"seed": 0},
                settings={"log": str(self._log)},
                checkpoint=is_kept,
            )
        )

    @precondition(lambda self: self._steps)
    @rule(data=st.data(), seed=st.integers(0, 2))
    def change_step(self, data: st.DataObject, seed: int) -> None:
        number = data.draw(st.integers(0, len(self._steps) - 1))
        old = self._steps[number]
        self._steps[number] = Step(
            name=old.name,
            function=old.function,
            inputs=old.inputs,
            params={"seed": seed},
            settings=old.settings,
            checkpoint=old.checkpoint,
        )

    @precondition(lambda self: self._steps)
    @rule(changes=st.integers(1, 18))
    def crash(self, changes: float) -> None:
        for left in (changes, changes + 0.5):
            try:
                self._run(Fragile(self._root, left))
            except Crashed:
                self._bury()

    @precondition(lambda self: self._steps)
    @rule()
    def finish(self) -> None:
        found = self._run(LocalStore(self._root))
        with tempfile.TemporaryDirectory() as elsewhere:
            undisturbed = self._run(LocalStore(Path(elsewhere)), is_logged=False)
        assert found == undisturbed

    @invariant()
    def what_is_committed_stays_and_is_not_made_again(self) -> None:
        store = LocalStore(self._root)
        runs = Counter(self._log.read_text().split() if self._log.exists() else [])
        for path in store.list("manifests"):
            manifest = read_manifest(store, path)
            key = manifest.key.digest
            committed_before = self._seen.setdefault(path, (manifest.root, runs[key]))
            assert committed_before == (manifest.root, runs[key])
        assert self._seen.keys() <= set(store.list("manifests"))

    def teardown(self) -> None:
        self._folder.cleanup()

    def _run(self, store: LocalStore, *, is_logged: bool = True) -> dict[str, str]:
        steps = self._steps
        if not is_logged:
            steps = [
                Step(
                    name=step.name,
                    function=step.function,
                    inputs=step.inputs,
                    params=step.params,
                    settings={"log": os.devnull},
                    checkpoint=step.checkpoint,
                )
                for step in steps
            ]
        quiet = Lease(beat_s=3600.0)
        result = Runner("run", steps, store, start_executor=_on_one_cpu, lease=quiet).run()
        return {name: manifest.digest for name, manifest in result.manifests.items()}

    def _bury(self) -> None:
        """Make the last owner look like what it is, a process that died."""
        store = LocalStore(self._root)
        for path in store.list("runs"):
            if path.endswith("/owner.json"):
                store.create(path.replace("owner.json", "released"), b"")


def _on_one_cpu(send: Send) -> InProcessExecutor:
    """Where quick steps share a batch."""
    return InProcessExecutor(send, Capacity(cpus=1))


@pytest.mark.parametrize("pace_s", [0.0, math.inf], ids=["together", "alone"])
@pytest.mark.parametrize("examples", [12, pytest.param(300, marks=pytest.mark.slow)])
def test_random_graphs_survive_random_crashes(
    examples: int, pace_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Schedule, "_pace_s", lambda self, step: pace_s)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Crashes,
        settings=settings(
            max_examples=examples,
            stateful_step_count=12,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
