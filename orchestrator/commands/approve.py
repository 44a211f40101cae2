"""Let a step go on that waits for a person."""

import argparse
import getpass

from orchestrator.commands.arguments import add_run, run_of
from orchestrator.commands.output import console_for, print_json
from orchestrator.runs import approve


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_run(parser)
    parser.add_argument("step", metavar="STEP", help="the step, as `gammaray status` shows it")
    parser.add_argument("--by", help="who approves (default: the name of this user)")


def execute(args: argparse.Namespace) -> int:
    """Open the gate; the driver looks every second."""
    store, run_id = run_of(args)
    is_new = approve(store, run_id, args.step, by=args.by or getpass.getuser())
    if args.json:
        print_json({"run_id": run_id, "step": args.step, "approved": True, "was_new": is_new})
    else:
        text = "approved" if is_new else "was approved before"
        console_for(args).print(f"{run_id} {args.step}: {text}", highlight=False, markup=False)
    return 0
