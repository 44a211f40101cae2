"""Show where a run stands, step by step."""

import argparse
from dataclasses import asdict

from rich.table import Table

from orchestrator.commands.arguments import add_run, run_of
from orchestrator.commands.output import console_for, print_json
from orchestrator.durable import read_status


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_run(parser)


def execute(args: argparse.Namespace) -> int:
    """Read the run's own record; no step is opened."""
    status = read_status(*run_of(args))
    if args.json:
        print_json(asdict(status))
        return 0
    title = f"{status.run_id}: {status.state} (updated {status.updated_at})"
    table = Table("step", "state", "attempt", "from", "to", "why / failure", title=title)
    for name, step in status.steps.items():
        remark = step.failure or "\n".join(step.reasons)
        table.add_row(
            name, step.state, str(step.attempt or ""), step.started_at, step.finished_at, remark
        )
    console_for(args).print(table)
    return 0
