"""Which code a run was made with."""

import subprocess
from importlib.metadata import version
from pathlib import Path

_GIT_S = 5.0


def source_tags() -> dict[str, str]:
    """The distribution's version and, where it runs from a git checkout, the commit."""
    tags = {"gammaray.version": version("gammaray")}
    if commit := _commit(Path(__file__).parent):
        tags["mlflow.source.git.commit"] = commit
    return tags


def _commit(folder: Path) -> str:
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
