"""What a step can wait for besides its inputs: a time, or a person's approval.

A gate belongs to a run and a key: what was approved is this result of these inputs, and a change
of either asks again.
"""

import json
from datetime import UTC, datetime, timedelta

from orchestrator.durable.step import Approval, Step, Timer
from orchestrator.store import Store


def is_open(store: Store, run_id: str, key: str, gate: Approval | Timer) -> bool:
    """Whether the step may start. A timer is set when it is first asked for."""
    if isinstance(gate, Approval):
        return store.exists(_path(run_id, key))
    due = (datetime.now(UTC) + timedelta(seconds=gate.seconds)).isoformat()
    store.create(_path(run_id, key), json.dumps({"due": due}).encode())
    found = json.loads(store.read(_path(run_id, key)))["due"]
    return datetime.now(UTC) >= datetime.fromisoformat(found)


def open_gate(store: Store, run_id: str, key: str, *, by: str) -> bool:
    """Approve; False if that was done before."""
    record = {"by": by, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    return store.create(_path(run_id, key), json.dumps(record).encode())


def waiting_text(run_id: str, step: Step) -> str:
    """What a held step waits for, and how a person lets it go on."""
    if isinstance(step.gate, Approval):
        what = step.gate.note or "approval"
        return f"waits for {what}: gammaray approve {run_id} {step.name}"
    return "waits for its time"


def _path(run_id: str, key: str) -> str:
    return f"runs/{run_id}/gates/{key}.json"
