from orchestrator.ownership.epochs import Clock, Lease, Ownership, claim
from orchestrator.ownership.errors import OwnershipLostError, RunCancelledError, RunOwnedError
from orchestrator.ownership.inflight import InFlight

__all__ = [
    "Clock",
    "InFlight",
    "Lease",
    "Ownership",
    "OwnershipLostError",
    "RunCancelledError",
    "RunOwnedError",
    "claim",
]
