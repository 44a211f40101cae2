"""What each step of a run would do now, and why."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from orchestrator.durable.artifact import check_presence, open_artifact
from orchestrator.durable.attempt import load_function
from orchestrator.durable.errors import StepError
from orchestrator.durable.key import StepKey, canonical, explain, source_digest
from orchestrator.durable.manifest import Manifest, committed, committed_for
from orchestrator.durable.step import External, Step
from orchestrator.durable.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Whether a step whose inputs are known is reused."""

    key: StepKey
    manifest: Manifest | None
    """The committed result to reuse, or None."""

    generation: int
    """What a new result would be."""

    reasons: tuple[str, ...]
    """Why it must run, or what to know about its reuse."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStep:
    """One line of a plan."""

    name: str
    action: Literal["reuse", "run", "wait"]
    """``wait``: it follows a step that runs, and is decided by that step's result."""

    reasons: tuple[str, ...]
    key: str = ""
    """Digest of the key, "" while it waits."""


def order_steps(steps: Sequence[Step]) -> list[Step]:
    """Order steps so that inputs come first, and otherwise as they were given.

    Raises:
        StepError: For two steps of one name, an input that no step makes, or a cycle.
    """
    by_name = {step.name: step for step in steps}
    ordered: dict[str, Step] = {}
    for step in steps:
        if by_name[step.name] is not step:
            raise StepError(step.name, "two steps have this name: rename one")
        for source in producers(step):
            if source not in by_name:
                raise StepError(step.name, f"input {source!r} is no step of {sorted(by_name)}")
    while len(ordered) < len(steps):
        waiting = [step for step in steps if step.name not in ordered]
        free = [step for step in waiting if all(name in ordered for name in producers(step))]
        if not free:
            names = ", ".join(step.name for step in waiting)
            raise StepError(waiting[0].name, f"steps wait for each other in a circle: {names}")
        ordered.update((step.name, step) for step in free)
    return list(ordered.values())


def producers(step: Step) -> list[str]:
    """Names of the steps whose results ``step`` takes."""
    return [source for source in step.inputs.values() if isinstance(source, str)]


def key_of(step: Step, results: Mapping[str, Manifest], *, strict_code: bool) -> StepKey:
    """Key of a step whose inputs are all in ``results``."""
    return StepKey(
        name=step.name,
        version=step.version,
        params=json.loads(canonical(step.params)),
        inputs={
            name: source.digest if isinstance(source, External) else results[source].digest
            for name, source in step.inputs.items()
        },
        source=source_digest(step.function),
        strict_code=strict_code,
    )


def decide(store: Store, step: Step, key: StepKey, redo: Collection[str]) -> Decision:
    """Reuse a committed result, or say why there must be a new one."""
    found = committed(store, key)
    if found is None:
        return Decision(key=key, manifest=None, generation=0, reasons=_difference(store, key))
    reasons: tuple[str, ...] = ()
    if step.name in redo:
        reasons = (f"{step.name}: asked to be redone",)
    elif not _is_valid(store, step, found):
        reasons = (f"{step.name}: its effect is gone ({step.validate})",)
    if reasons:
        generation = found.generation + 1
        return Decision(key=key, manifest=None, generation=generation, reasons=reasons)
    check_presence(store, found)
    notes = tuple(explain(found.key, key))
    return Decision(key=key, manifest=found, generation=found.generation, reasons=notes)


def plan(
    store: Store, steps: Sequence[Step], *, redo: Collection[str] = (), strict_code: bool = False
) -> list[PlannedStep]:
    """Say for each step, in the order they run, whether it is reused, runs or waits, and why."""
    results: dict[str, Manifest] = {}
    planned = []
    for step in order_steps(steps):
        missing = [name for name in producers(step) if name not in results]
        if missing:
            reasons = (*_known_changes(store, step), f"{step.name}: waits for {', '.join(missing)}")
            planned.append(PlannedStep(name=step.name, action="wait", reasons=reasons))
            continue
        decision = decide(store, step, key_of(step, results, strict_code=strict_code), redo)
        if decision.manifest is not None:
            results[step.name] = decision.manifest
        planned.append(
            PlannedStep(
                name=step.name,
                action="run" if decision.manifest is None else "reuse",
                reasons=decision.reasons,
                key=decision.key.digest,
            )
        )
    return planned


def _is_valid(store: Store, step: Step, manifest: Manifest) -> bool:
    if step.validate is None:
        return True
    with TemporaryDirectory(prefix="gammaray-") as scratch:
        artifact = open_artifact(store, manifest, Path(scratch))
        return bool(load_function(step.name, step.validate)(artifact, step.settings))


def _difference(store: Store, key: StepKey) -> tuple[str, ...]:
    """How ``key`` differs from the nearest one that has a result."""
    earlier = [tuple(explain(manifest.key, key)) for manifest in committed_for(store, key.name)]
    return min(earlier, key=len, default=(f"{key.name}: no result yet",))


def _known_changes(store: Store, step: Step) -> Iterable[str]:
    """How a step differs from the nearest one that has a result, whatever its inputs will be."""
    differences = []
    for manifest in committed_for(store, step.name):
        results = dict.fromkeys(producers(step), manifest)
        key = key_of(step, results, strict_code=manifest.key.strict_code)
        differences.append(explain(_without_inputs(manifest.key), _without_inputs(key)))
    return min(differences, key=len, default=[])


def _without_inputs(key: StepKey) -> StepKey:
    return StepKey(
        name=key.name, version=key.version, params=key.params, inputs={}, source=key.source
    )
