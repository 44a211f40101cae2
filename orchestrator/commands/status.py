"""Show where a run stands, step by step."""

import argparse
from dataclasses import asdict

from rich.table import Table

from orchestrator.commands.arguments import add_run, run_of
from orchestrator.commands.output import console_for, print_json
from orchestrator.durable import read_status
from orchestrator.runs.ledger import Cost, ledger, total


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_run(parser)
    parser.add_argument(
        "--ledger",
        action="store_true",
        help="what each result has cost",
    )


def execute(args: argparse.Namespace) -> int:
    """Read the run's own record; no step is opened."""
    store, run_id = run_of(args)
    if args.ledger:
        return _show_ledger(ledger(store, run_id), args)
    status = read_status(store, run_id)
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


def _show_ledger(costs: list[Cost], args: argparse.Namespace) -> int:
    if args.json:
        print_json({"steps": [asdict(cost) for cost in costs], "total": total(costs)})
        return 0
    table = Table("step", "made by", "host", "attempt", "s", "CPU s", "held", "GPU s", "MB")
    for cost in costs:
        times = (cost.seconds, cost.cpu_seconds, cost.reserved_cpu_seconds, cost.gpu_seconds)
        numbers = [f"{value:.1f}" for value in (*times, cost.bytes / 1e6)]
        table.add_row(cost.step, cost.run_id, cost.host, str(cost.attempt), *numbers)
    console_for(args).print(table)
    return 0
