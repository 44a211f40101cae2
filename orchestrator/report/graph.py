"""The steps of a run and what each takes, as it was last started."""

from dataclasses import dataclass

from orchestrator.artifacts.manifest import read_manifest
from orchestrator.durable import Store, read_spec, read_status


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One step; those of a fan-out are not told apart."""

    name: str
    state: str
    inputs: tuple[str, ...]
    """Names of steps, in the order of the run."""

    seconds: float | None = None
    """What making its result took, in whichever run that was; None without a kept result."""


def read_graph(store: Store, run_id: str) -> list[Node]:
    """Read it from the run's record; inputs come first.

    Raises:
        FileNotFoundError: If the store has no such run, or it was never started.
    """
    steps = read_status(store, run_id).steps
    states = {name: str(step.state) for name, step in steps.items()}
    declared = {step["name"]: step for step in read_spec(store, run_id)["steps"]}
    place = {name: number for number, name in enumerate(states)}
    nodes = []
    for name in sorted(declared, key=lambda name: place.get(name, len(place))):
        sources = (_source(taken) for taken in declared[name]["inputs"].values())
        inputs = sorted({source for source in sources if source}, key=lambda n: place.get(n, 0))
        state = states.get(name, "waiting")
        manifest = steps[name].manifest if name in steps else ""
        seconds = _seconds(store, manifest)
        nodes.append(Node(name=name, state=state, inputs=tuple(inputs), seconds=seconds))
    return nodes


def _seconds(store: Store, manifest: str) -> float | None:
    seconds = read_manifest(store, manifest).values.get("seconds") if manifest else None
    return float(seconds) if isinstance(seconds, int | float) else None


def _source(taken: object) -> str:
    """Name of the step behind an input as the spec holds it; "" for data from outside."""
    if isinstance(taken, dict):
        return str(taken.get("step", ""))
    return str(taken)
