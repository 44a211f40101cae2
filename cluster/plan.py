"""What a run needs, as ``gammaray plan --json`` tells it.

This package knows the run by its command line only, so the JSON is a contract:
``{"run_id", "recipe", "store", "resources": {"workers", "cpus_per_worker",
"gpus_per_worker", "memory_gb_per_worker"}, "stages": [...]}``; keys that are not named here
may be added freely.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError, UsageError

WRONG_USAGE = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The part of a plan that decides which machines a run gets."""

    run_id: str
    recipe: str
    store: str
    workers: int
    """Worker processes that run at the same time."""
    cpus_per_worker: float
    gpus_per_worker: float
    memory_gb_per_worker: float
    """GiB."""

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read what ``gammaray plan --json`` printed.

        Raises:
            ClusterError: If it is not the JSON that this module's docstring describes.
        """
        try:
            tree = json.loads(text)
            resources = tree["resources"]
            plan = cls(
                run_id=str(tree["run_id"]),
                recipe=str(tree["recipe"]),
                store=str(tree["store"]),
                workers=int(resources["workers"]),
                cpus_per_worker=_amount(resources, "cpus_per_worker"),
                gpus_per_worker=_amount(resources, "gpus_per_worker"),
                memory_gb_per_worker=_amount(resources, "memory_gb_per_worker"),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ClusterError(
                f"gammaray plan --json printed something else than a plan ({error!r}); "
                "are all parts of gammaray of one version?"
            ) from error
        if plan.workers < 1 or plan.cpus_per_worker <= 0 or plan.memory_gb_per_worker <= 0:
            raise ClusterError(f"the plan asks for no machine at all: {plan}")
        return plan


def read_plan(recipe: str, overrides: Sequence[str]) -> Plan:
    """Ask ``gammaray plan`` what ``recipe`` needs.

    Raises:
        UsageError: If the recipe or an override is wrong, in the words of ``gammaray plan``.
        ClusterError: If there is no ``gammaray`` command or it failed.
    """
    command = [_gammaray(), "plan", recipe, *overrides, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return Plan.from_json(result.stdout)
    said = result.stderr.strip() or f"gammaray plan ended with exit code {result.returncode}"
    raise (UsageError if result.returncode == WRONG_USAGE else ClusterError)(said)


def _gammaray() -> str:
    beside_python = Path(sys.executable).with_name("gammaray")
    found = str(beside_python) if beside_python.is_file() else shutil.which("gammaray")
    if found is None:
        raise ClusterError(
            f"no gammaray command beside {sys.executable} or on PATH; install the package with pip"
        )
    return found


def _amount(resources: Mapping[str, Any], key: str) -> float:
    value = resources[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise TypeError(f"{key}: expected a number of at least 0, got {value!r}")
    return float(value)
