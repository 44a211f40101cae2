"""The steps of a run and what each takes, as it was last started."""

from dataclasses import dataclass

from orchestrator.durable import Store, read_spec, read_status


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One step; those of a fan-out are not told apart."""

    name: str
    state: str
    inputs: tuple[str, ...]
    """Names of steps, in the order of the run."""


def read_graph(store: Store, run_id: str) -> list[Node]:
    """Read it from the run's record; inputs come first.

    Raises:
        FileNotFoundError: If the store has no such run, or it was never started.
    """
    states = {name: str(step.state) for name, step in read_status(store, run_id).steps.items()}
    declared = {step["name"]: step for step in read_spec(store, run_id)["steps"]}
    place = {name: number for number, name in enumerate(states)}
    nodes = []
    for name in sorted(declared, key=lambda name: place.get(name, len(place))):
        sources = (_source(taken) for taken in declared[name]["inputs"].values())
        inputs = sorted({source for source in sources if source}, key=lambda n: place.get(n, 0))
        nodes.append(Node(name=name, state=states.get(name, "waiting"), inputs=tuple(inputs)))
    return nodes


def _source(taken: object) -> str:
    """Name of the step behind an input as the spec holds it; "" for data from outside."""
    if isinstance(taken, dict):
        return str(taken.get("step", ""))
    return str(taken)
