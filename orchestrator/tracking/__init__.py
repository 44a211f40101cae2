from orchestrator.tracking.errors import TrackingError
from orchestrator.tracking.location import check_reachable, public, resolve_tracking_uri
from orchestrator.tracking.session import TrackedRun
from orchestrator.tracking.tracker import MLflowTracker, Tracker
from orchestrator.tracking.writer import Leftover

__all__ = [
    "Leftover",
    "MLflowTracker",
    "TrackedRun",
    "Tracker",
    "TrackingError",
    "check_reachable",
    "public",
    "resolve_tracking_uri",
]
