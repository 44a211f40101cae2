"""Show what a run or a sweep would do: what is reused, what runs and why, and what it needs."""

import argparse
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from orchestrator.commands.arguments import add_recipe, launch_of
from orchestrator.commands.output import console_for, print_json
from orchestrator.durable import PlannedStep
from orchestrator.launch import Launch

if TYPE_CHECKING:
    from orchestrator.sweep.forecast import Outlook


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_recipe(parser)


def execute(args: argparse.Namespace) -> int:
    """Plan without starting anything."""
    launch = launch_of(args)
    planned = launch.planned()
    ahead = _ahead(launch)
    if args.json:
        print_json(_document(launch, args.recipe, planned, ahead))
        return 0
    table = Table("step", "action", "why", title=f"{launch.run_id} in {launch.store.url}")
    for step in planned:
        table.add_row(step.name, step.action, "\n".join(step.reasons))
    console = console_for(args)
    console.print(table)
    if ahead is not None:
        ahead.show(console)
    return 0


def _ahead(launch: Launch) -> "Outlook | None":
    """What the recipe's sweep would do, if it has one; only then Optuna is imported."""
    if launch.recipe.sweep is None:
        return None
    from orchestrator.sweep.outlook import outlook

    return outlook(launch, {"CPU": float(os.cpu_count() or 1)})


def _document(
    launch: Launch, recipe: str, planned: list[PlannedStep], ahead: "Outlook | None"
) -> dict[str, Any]:
    workers = launch.recipe.workers
    return {
        "run_id": launch.run_id,
        "recipe": recipe,
        "store": launch.store.url,
        "resources": {
            "workers": max(workers.arank, workers.training_sizes.start),
            "cpus_per_worker": workers.cpus,
            "gpus_per_worker": workers.gpus,
            "memory_gb_per_worker": workers.memory_gb,
        },
        "stages": [asdict(step) for step in planned],
        **({} if ahead is None else {"sweep": ahead.to_json()}),
    }
