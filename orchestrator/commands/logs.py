"""Show the log of a run, or what a step of it printed, also when its cluster is gone."""

import argparse
import sys

from orchestrator.commands.arguments import add_run, run_of
from orchestrator.commands.output import print_json
from orchestrator.durable import read_status
from orchestrator.errors import PreflightError
from orchestrator.runs.log import read_log, read_output


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_run(parser)
    parser.add_argument("step", nargs="?", metavar="STEP", help="only what this step printed")


def execute(args: argparse.Namespace) -> int:
    """Print it as it was written.

    Raises:
        PreflightError: If the run has no such step.
    """
    store, run_id = run_of(args)
    if args.step is None:
        text = read_log(store, run_id)
        if args.json:
            print_json({"run_id": run_id, "lines": text.splitlines()})
        else:
            sys.stdout.write(text)
        return 0
    steps = read_status(store, run_id).steps
    if args.step not in steps:
        raise PreflightError(f"run {run_id} has no step {args.step!r}; it has {', '.join(steps)}")
    attempts = read_output(store, run_id, args.step)
    if args.json:
        print_json({"run_id": run_id, "step": args.step, "attempts": attempts})
        return 0
    for attempt, text in attempts.items():
        sys.stdout.write(f"--- {args.step} {attempt}\n{text}")
    return 0
