"""What each step of a run would do now, and why."""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from orchestrator.artifacts.artifact import check_presence, open_artifact
from orchestrator.artifacts.catalogue import Catalogue
from orchestrator.artifacts.history import History
from orchestrator.artifacts.key import StepKey, explain, source_digest
from orchestrator.artifacts.manifest import Manifest, committed, unkept
from orchestrator.durable.attempt import load_function
from orchestrator.durable.graph import Graph, items_of, producers
from orchestrator.durable.step import External, Step
from orchestrator.store import Store


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """What one step would do."""

    name: str
    action: Literal["reuse", "run", "wait"]
    """``wait``: an input is still to be made, and its digest decides; or the result is not kept
    and somebody must need it."""

    key: StepKey
    """Without the inputs that are still to be made."""

    reasons: tuple[str, ...]
    """Why it runs or waits, or what to know about its reuse."""

    manifest: Manifest | None = None
    """The result to reuse, or what stands for one that is not kept."""

    generation: int = 0
    """Of the result that it would make."""


@dataclass(frozen=True, slots=True)
class FannedOut:
    """A fan-out in whose place there are now as many steps as its list has items."""

    name: str
    steps: Sequence[str]


class Planner:
    """Decides on the steps of a run, one after another, as their inputs come.

    Args:
        store: Where results may be.
        steps: The steps.
        redo: Names of steps that run although there is a result.
        strict_code: Whether the source of a step's module is part of its key.

    Raises:
        StepError: If the steps cannot be ordered.
    """

    def __init__(
        self, store: Store, steps: Sequence[Step], *, redo: Collection[str], strict_code: bool
    ) -> None:
        self.graph = Graph(steps)
        self.results: dict[str, Manifest] = {}
        """What there is, or what stands for it, by step."""

        self.catalogue: Catalogue | None = None
        """Where results are looked up; the store itself while there is none."""

        self._store, self._redo, self._strict_code = store, frozenset(redo), strict_code
        self._history = History(store)
        self._undecided = deque(self.graph.free())

    def note(self, name: str, manifest: Manifest) -> None:
        """Take in a result, and decide next on the steps that waited for it."""
        is_known = name in self.results
        self.results[name] = manifest
        if not is_known:
            self._undecided += self.graph.finish(name)

    def decide(self) -> Iterator[PlannedStep | FannedOut]:
        """Say what to do with every step whose inputs are there; what is reused is noted."""
        while self._undecided:
            step = self.graph.steps[self._undecided.popleft()]
            if step.fans_out_over:
                items = items_of(self._store, self.results[step.fans_out_over])
                grown = self.graph.grow(step.name, items)
                self._undecided += grown
                yield FannedOut(step.name, grown[: len(items)])
            elif step.name not in self.results:
                planned = self.plan(step)
                if planned.manifest and (step.checkpoint or self.graph.consumers(step.name)):
                    self.note(step.name, planned.manifest)
                yield planned

    def plan(self, step: Step) -> PlannedStep:
        """Decide on one step; it waits if a result that it takes is missing."""
        name, key = step.name, self._key(step)
        missing = [source for source in producers(step) if source not in self.results]
        if missing:
            reasons = (*self._history.difference(key), f"{name}: waits for {', '.join(missing)}")
            return PlannedStep(name, "wait", key, reasons)
        if not step.checkpoint:
            return PlannedStep(name, "wait", key, (f"{name}: its result is not kept",), unkept(key))
        find = self.catalogue.committed if self.catalogue else partial(committed, self._store)
        found = find(key)
        if found is None:
            return PlannedStep(name, "run", key, self.reasons(key))
        again = "asked to be redone" if self.is_redone(step) else self._lost_effect(step, found)
        if again:
            reasons = (f"{name}: {again}",)
            return PlannedStep(name, "run", key, reasons, generation=found.generation + 1)
        check_presence(self._store, found)
        # Code that is no part of the key differs although the digest does not.
        is_same = (found.key.source, found.key.strict_code) == (key.source, key.strict_code)
        reasons = () if is_same else tuple(explain(found.key, key))
        return PlannedStep(name, "reuse", key, reasons, found)

    def reasons(self, key: StepKey) -> tuple[str, ...]:
        """Why there is no result for a key: how it differs from the nearest one that has."""
        return self._history.difference(key) or (f"{key.name}: no result yet",)

    def is_redone(self, step: Step) -> bool:
        """Whether it was asked to run although there is a result."""
        return not self._redo.isdisjoint((step.name, step.template))

    def _key(self, step: Step) -> StepKey:
        inputs = {}
        for name, source in step.inputs.items():
            if isinstance(source, External):
                inputs[name] = source.digest
            elif isinstance(source, str) and source in self.results:
                inputs[name] = self.results[source].digest
        return StepKey(
            name=step.template or step.name,
            version=step.version,
            params=step.params,
            inputs=inputs,
            source=source_digest(step.function),
            strict_code=self._strict_code,
        )

    def _lost_effect(self, step: Step, manifest: Manifest) -> str:
        if step.validate is None:
            return ""
        validate = load_function(step.name, step.validate)
        with TemporaryDirectory(prefix="gammaray-") as scratch:
            artifact = open_artifact(self._store, manifest, Path(scratch))
            is_there = validate(artifact, step.settings)
        return "" if is_there else f"its effect is gone ({step.validate})"


def plan(
    store: Store, steps: Sequence[Step], *, redo: Collection[str] = (), strict_code: bool = False
) -> list[PlannedStep]:
    """Say for each step whether it is reused, runs or waits, and why; inputs come first.

    Raises:
        StepError: If the steps cannot be ordered.
    """
    planner = Planner(store, steps, redo=redo, strict_code=strict_code)
    decided = {found.name: found for found in planner.decide() if isinstance(found, PlannedStep)}
    return [decided.get(name) or planner.plan(step) for name, step in planner.graph.steps.items()]
