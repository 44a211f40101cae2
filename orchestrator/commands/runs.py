"""List the runs of a store."""

import argparse
from collections import Counter
from dataclasses import asdict

from rich.table import Table

from orchestrator.commands.arguments import add_store, url_of
from orchestrator.commands.output import console_for, print_json
from orchestrator.durable import list_runs, open_store, read_status


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_store(parser)


def execute(args: argparse.Namespace) -> int:
    """Read each run's own record; no step is opened."""
    store = open_store(url_of(args))
    found = [read_status(store, run_id) for run_id in list_runs(store)]
    steps = [Counter(str(step.state) for step in status.steps.values()) for status in found]
    if args.json:
        rows = zip(found, steps, strict=True)
        print_json([{**asdict(status), "steps": counts} for status, counts in rows])
        return 0
    table = Table("run", "state", "updated", "steps", title=store.url)
    for status, counts in zip(found, steps, strict=True):
        shown = ", ".join(f"{count} {state}" for state, count in counts.items())
        table.add_row(status.run_id, status.state, status.updated_at, shown)
    console_for(args).print(table)
    return 0
