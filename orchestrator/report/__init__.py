from orchestrator.report.documents import from_artifacts, from_store
from orchestrator.report.summary import Summary, summarize
from orchestrator.report.terminal import print_summary

__all__ = ["Summary", "from_artifacts", "from_store", "print_summary", "summarize"]
