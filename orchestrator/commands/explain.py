"""Say why each step of a run is reused or runs again."""

import argparse

from orchestrator.commands.arguments import add_recipe, launch_of
from orchestrator.commands.output import console_for, print_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_recipe(parser)
    parser.add_argument("--step", help="only this step")


def execute(args: argparse.Namespace) -> int:
    """Print one line per step and reason."""
    planned = [s for s in launch_of(args).planned() if args.step in (None, s.name)]
    if args.json:
        print_json({step.name: {"action": step.action, "why": step.reasons} for step in planned})
        return 0
    console = console_for(args)
    for step in planned:
        why = "; ".join(step.reasons) or "nothing that it depends on has changed"
        console.print(f"{step.name}: {step.action}: {why}", highlight=False, markup=False)
    return 0
