"""What each step of a run would do now, and why."""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from orchestrator.artifacts.artifact import check_presence, open_artifact
from orchestrator.artifacts.catalogue import Catalogue
from orchestrator.artifacts.key import StepKey, explain, source_digest
from orchestrator.artifacts.manifest import Manifest, committed, committed_for
from orchestrator.durable.attempt import load_function
from orchestrator.durable.graph import Graph, items_of, producers
from orchestrator.durable.step import Each, External, Step
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


def plan(
    store: Store, steps: Sequence[Step], *, redo: Collection[str] = (), strict_code: bool = False
) -> list[PlannedStep]:
    """Say for each step whether it is reused, runs or waits, and why; inputs come first.

    Raises:
        StepError: If the steps cannot be ordered.
    """
    graph = Graph(steps)
    results: dict[str, Manifest] = {}
    planned: dict[str, PlannedStep] = {}
    queue = deque(graph.free())
    while queue:
        step = graph.steps[queue.popleft()]
        source = next((each.step for each in step.inputs.values() if isinstance(each, Each)), None)
        if source is not None:
            queue += graph.grow(step.name, items_of(store, results[source]))
            continue
        found = plan_step(store, step, results, redo=redo, strict_code=strict_code)
        planned[step.name] = found
        if found.manifest is not None:
            results[step.name] = found.manifest
            queue += graph.finish(step.name)
    for name, step in graph.steps.items():
        if name not in planned:
            planned[name] = plan_step(store, step, results, redo=redo, strict_code=strict_code)
    return [planned[name] for name in graph.steps]


def plan_step(
    store: Store,
    step: Step,
    results: Mapping[str, Manifest],
    *,
    redo: Collection[str],
    strict_code: bool,
    catalogue: Catalogue | None = None,
) -> PlannedStep:
    """Decide on one step.

    Args:
        store: Where its result may be.
        step: The step.
        results: Results that there are, by step; what is missing makes it wait.
        redo: Names of steps that run although there is a result.
        strict_code: Whether the source of a step's module is part of its key.
        catalogue: Where results are looked up; the store itself by default.
    """
    key = _key(step, results, strict_code=strict_code)
    asked_for = {step.name, step.template} & set(redo)
    missing = [source for source in producers(step) if source not in results]
    if missing:
        reasons = (*_difference(store, key), f"{step.name}: waits for {', '.join(missing)}")
        return PlannedStep(step.name, "wait", key, reasons)
    if not step.checkpoint:
        unkept = Manifest(
            key=key, generation=0, root="", files=(), measurements=(), values={}, is_kept=False
        )
        return PlannedStep(
            step.name, "wait", key, (f"{step.name}: its result is not kept",), unkept
        )
    found = catalogue.committed(key) if catalogue else committed(store, key)
    if found is None:
        reasons = _difference(store, key) or (f"{step.name}: no result yet",)
        return PlannedStep(step.name, "run", key, reasons)
    again = "asked to be redone" if asked_for else _lost_effect(store, step, found)
    if again:
        reasons = (f"{step.name}: {again}",)
        return PlannedStep(step.name, "run", key, reasons, generation=found.generation + 1)
    check_presence(store, found)
    is_same = (found.key.source, found.key.strict_code) == (key.source, key.strict_code)
    return PlannedStep(step.name, "reuse", key, () if is_same else _notes(found, key), found)


def _key(step: Step, results: Mapping[str, Manifest], *, strict_code: bool) -> StepKey:
    inputs = {}
    for name, source in step.inputs.items():
        if isinstance(source, External):
            inputs[name] = source.digest
        elif isinstance(source, str) and source in results:
            inputs[name] = results[source].digest
    return StepKey(
        name=step.template or step.name,
        version=step.version,
        params=step.params,
        inputs=inputs,
        source=source_digest(step.function),
        strict_code=strict_code,
    )


def _notes(found: Manifest, key: StepKey) -> tuple[str, ...]:
    """What differs although the digest does not: code that is no part of the key."""
    return tuple(explain(found.key, key))


def _lost_effect(store: Store, step: Step, manifest: Manifest) -> str:
    if step.validate is None:
        return ""
    validate = load_function(step.name, step.validate)
    with TemporaryDirectory(prefix="gammaray-") as scratch:
        artifact = open_artifact(store, manifest, Path(scratch))
        return "" if validate(artifact, step.settings) else f"its effect is gone ({step.validate})"


def _difference(store: Store, key: StepKey) -> tuple[str, ...]:
    """How ``key`` differs from the nearest one that has a result, as far as inputs are known."""
    differences = []
    for manifest in committed_for(store, key.name):
        known = {name: old for name, old in manifest.key.inputs.items() if name in key.inputs}
        differences.append(tuple(explain(replace(manifest.key, inputs=known), key)))
    return min(differences, key=len, default=())
