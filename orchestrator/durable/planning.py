"""What each step of a run would do now, and why."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from orchestrator.durable.artifact import check_presence, open_artifact
from orchestrator.durable.attempt import load_function
from orchestrator.durable.errors import StepError
from orchestrator.durable.key import StepKey, explain, source_digest
from orchestrator.durable.manifest import Manifest, committed, committed_for
from orchestrator.durable.step import External, Step
from orchestrator.store import Store


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """What one step would do."""

    name: str
    action: Literal["reuse", "run", "wait"]
    """``wait``: an input is still to be made, and its digest decides."""

    key: StepKey
    """Without the inputs that are still to be made."""

    reasons: tuple[str, ...]
    """Why it runs or waits, or what to know about its reuse."""

    manifest: Manifest | None = None
    """The result to reuse."""

    generation: int = 0
    """Of the result that it would make."""


def order_steps(steps: Sequence[Step]) -> list[Step]:
    """Order steps so that inputs come first, and otherwise as they were given.

    Raises:
        StepError: For two steps of one name, an input that no step makes, or a cycle.
    """
    by_name = {step.name: step for step in steps}
    for step in steps:
        if by_name[step.name] is not step:
            raise StepError(step.name, "two steps have this name: rename one")
        for source in producers(step):
            if source not in by_name:
                raise StepError(step.name, f"input {source!r} is no step of {sorted(by_name)}")
    ordered: dict[str, Step] = {}
    while len(ordered) < len(steps):
        waiting = [step for step in steps if step.name not in ordered]
        free = [step for step in waiting if ordered.keys() >= set(producers(step))]
        if not free:
            names = ", ".join(step.name for step in waiting)
            raise StepError(waiting[0].name, f"steps wait for each other in a circle: {names}")
        ordered.update((step.name, step) for step in free)
    return list(ordered.values())


def producers(step: Step) -> list[str]:
    """Names of the steps whose results ``step`` takes."""
    return [source for source in step.inputs.values() if isinstance(source, str)]


def plan(
    store: Store, steps: Sequence[Step], *, redo: Collection[str] = (), strict_code: bool = False
) -> list[PlannedStep]:
    """Say for each step, in the order they run, whether it is reused, runs or waits, and why."""
    results: dict[str, Manifest] = {}
    planned = []
    for step in order_steps(steps):
        planned.append(plan_step(store, step, results, redo=redo, strict_code=strict_code))
        if planned[-1].manifest is not None:
            results[step.name] = planned[-1].manifest
    return planned


def plan_step(
    store: Store,
    step: Step,
    results: Mapping[str, Manifest],
    *,
    redo: Collection[str],
    strict_code: bool,
) -> PlannedStep:
    """Decide on one step.

    Args:
        store: Where its result may be.
        step: The step.
        results: Results that there are, by step; what is missing makes it wait.
        redo: Names of steps that run although there is a result.
        strict_code: Whether the source of a step's module is part of its key.
    """
    key = _key(step, results, strict_code=strict_code)
    missing = [source for source in producers(step) if source not in results]
    if missing:
        reasons = (*_difference(store, key), f"{step.name}: waits for {', '.join(missing)}")
        return PlannedStep(step.name, "wait", key, reasons)
    found = committed(store, key)
    if found is None:
        reasons = _difference(store, key) or (f"{step.name}: no result yet",)
        return PlannedStep(step.name, "run", key, reasons)
    again = "asked to be redone" if step.name in redo else _lost_effect(store, step, found)
    if again:
        reasons = (f"{step.name}: {again}",)
        return PlannedStep(step.name, "run", key, reasons, generation=found.generation + 1)
    check_presence(store, found)
    return PlannedStep(step.name, "reuse", key, tuple(explain(found.key, key)), found)


def _key(step: Step, results: Mapping[str, Manifest], *, strict_code: bool) -> StepKey:
    inputs = {}
    for name, source in step.inputs.items():
        if isinstance(source, External) or source in results:
            made = source if isinstance(source, External) else results[source]
            inputs[name] = made.digest
    return StepKey(
        name=step.name,
        version=step.version,
        params=step.params,
        inputs=inputs,
        source=source_digest(step.function),
        strict_code=strict_code,
    )


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
