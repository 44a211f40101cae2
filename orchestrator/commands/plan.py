"""Show what a run would do: what is reused, what runs and why, and what it needs."""

import argparse
from dataclasses import asdict
from typing import Any

from rich.table import Table

from orchestrator.commands.arguments import add_recipe, launch_of
from orchestrator.commands.output import console_for, print_json
from orchestrator.durable import PlannedStep
from orchestrator.launch import Launch


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_recipe(parser)


def execute(args: argparse.Namespace) -> int:
    """Plan without starting anything."""
    launch = launch_of(args)
    planned = launch.planned()
    if args.json:
        print_json(_document(launch, args.recipe, planned))
        return 0
    table = Table("step", "action", "why", title=f"{launch.run_id} in {launch.store.url}")
    for step in planned:
        table.add_row(step.name, step.action, "\n".join(step.reasons))
    console_for(args).print(table)
    return 0


def _document(launch: Launch, recipe: str, planned: list[PlannedStep]) -> dict[str, Any]:
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
    }
