"""Chaos: a run that is disturbed on purpose ends as if nothing had happened."""

from orchestrator.chaos.arena import Arena, Round
from orchestrator.chaos.faults import Fault, FaultKind, draw_faults
from orchestrator.chaos.results import Results
from orchestrator.chaos.verdict import Remains, Verdict

__all__ = ["Arena", "Fault", "FaultKind", "Remains", "Results", "Round", "Verdict", "draw_faults"]
