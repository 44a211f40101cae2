from orchestrator.runs.control import approve, cancel, delete, open_result, tag, tags
from orchestrator.runs.garbage import Garbage, Keep, find_garbage, remove_garbage

__all__ = [
    "Garbage",
    "Keep",
    "approve",
    "cancel",
    "delete",
    "find_garbage",
    "open_result",
    "remove_garbage",
    "tag",
    "tags",
]
