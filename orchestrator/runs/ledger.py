"""What each result of a run has cost, whoever made it."""

from dataclasses import dataclass, fields
from typing import Any

from orchestrator.artifacts.catalogue import Catalogue
from orchestrator.durable import Store, read_status


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of one result; 0 and "" where its manifest does not say."""

    step: str
    run_id: str
    """The run that made it; another one's is reused."""

    host: str
    attempt: int
    """Which attempt of its epoch it was, from 1."""

    seconds: float
    cpu_seconds: float
    """Used by the step's own process."""

    reserved_cpu_seconds: float
    """Time in which CPUs were held for it, workers included."""

    gpu_seconds: float
    """Time in which GPUs were held for it."""

    bytes: int


def ledger(store: Store, run_id: str) -> list[Cost]:
    """Costs of the results of a run, in its order, from few objects however many steps it has.

    Raises:
        FileNotFoundError: If the store has no such run.
    """
    steps = read_status(store, run_id).steps
    found = {manifest.path: manifest.values for manifest in Catalogue(store, run_id).manifests()}
    return [
        _cost(name, found[status.manifest])
        for name, status in steps.items()
        if status.manifest in found
    ]


def total(costs: list[Cost]) -> dict[str, float]:
    """Sums over all results."""
    names = ("seconds", "cpu_seconds", "reserved_cpu_seconds", "gpu_seconds", "bytes")
    return {name: sum(getattr(cost, name) for cost in costs) for name in names}


def _cost(step: str, values: Any) -> Cost:  # noqa: ANN401 - as JSON holds it
    texts = {"run_id", "host"}
    known: dict[str, Any] = {
        field.name: values.get(field.name, "" if field.name in texts else 0)
        for field in fields(Cost)
        if field.name != "step"
    }
    return Cost(step=step, **known)
