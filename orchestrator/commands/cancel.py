"""Stop a run, wherever it is driven; finished steps stay finished."""

import argparse

from orchestrator.commands.arguments import add_run, run_of
from orchestrator.commands.output import console_for, print_json
from orchestrator.runs import cancel, delete


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_run(parser)
    parser.add_argument(
        "--delete", action="store_true", help="forget the run afterwards; `gammaray gc` frees space"
    )


def execute(args: argparse.Namespace) -> int:
    """Ask its driver to stop, or take over what nobody drives."""
    store, run_id = run_of(args)
    console = console_for(args)
    state = cancel(store, run_id, tell=lambda text: console.print(text, highlight=False))
    if args.delete:
        delete(store, run_id)
    if args.json:
        print_json({"run_id": run_id, "state": state, "deleted": args.delete})
    else:
        end = " and deleted" if args.delete else ""
        console.print(f"{run_id} is {state}{end}", highlight=False, markup=False)
    return 0
