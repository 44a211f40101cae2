"""List the runs of a store."""

import argparse
from collections import Counter
from dataclasses import asdict

from rich.table import Table

from orchestrator.commands.arguments import add_store, url_of
from orchestrator.commands.output import console_for, print_json
from orchestrator.durable import Store, list_runs, open_store, read_status
from orchestrator.durable.record import RunStatus
from orchestrator.durable.states import RunState
from orchestrator.runs import tags


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--state", choices=[str(state) for state in RunState], help="only these")
    parser.add_argument("--name", default="", help="only runs whose id begins so")
    parser.add_argument("--tag", help="only runs with this tag")
    parser.add_argument("--last", type=int, metavar="N", help="only the N changed last")
    add_store(parser)


def execute(args: argparse.Namespace) -> int:
    """Read each run's own record; no step is opened."""
    store = open_store(url_of(args))
    found = _select(store, args)
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


def _select(store: Store, args: argparse.Namespace) -> list[RunStatus]:
    """Those that were asked for, the last changed at the end."""
    names = [run_id for run_id in list_runs(store) if run_id.startswith(args.name)]
    if args.tag is not None:
        names = [run_id for run_id in names if args.tag in tags(store, run_id)]
    found = [read_status(store, run_id) for run_id in names]
    found = [status for status in found if args.state in (None, status.state)]
    found.sort(key=lambda status: status.updated_at)
    return found if args.last is None else found[max(0, len(found) - args.last) :]
