"""Search the values that a recipe's section `sweep` names, or continue: same recipe, same sweep."""

import argparse
import copy
import json
from typing import Any

from orchestrator.commands.arguments import add_recipe, launch_of
from orchestrator.commands.output import console_for, print_json
from orchestrator.commands.run import (
    detach,
    drive,
    how_to_start,
    places_of,
    print_places,
    show_summary,
)
from orchestrator.durable import RunResult
from orchestrator.launch import Launch
from orchestrator.sweep.launching import sweep_launch, sweep_of
from orchestrator.sweep.result import SweepResult
from orchestrator.sweep.table import print_result
from orchestrator.sweep.values import overrides
from orchestrator.tracking import MLflowTracker


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_recipe(parser)
    parser.add_argument(
        "--address", help="Ray cluster to use (default: $RAY_ADDRESS, or Ray on this machine)"
    )
    parser.add_argument(
        "--retrain",
        action="store_true",
        help="run the winner with the full budget, which registers it (as sweep.retrain=true)",
    )
    parser.add_argument(
        "--tag", metavar="NAME", help="mark the sweep, so that `gammaray gc` keeps it"
    )
    parser.add_argument(
        "--background", action="store_true", help="leave it running and return at once"
    )
    parser.set_defaults(to=[], redo=[], strict_code=False, until=None)


def execute(args: argparse.Namespace) -> int:
    """Search to the end, show all trials, and train the winner again if that is wanted."""
    if args.retrain:
        args = _with(args, ["sweep.retrain=true"])  # so that `gammaray resume` knows
    base = launch_of(args)
    launch = sweep_launch(base, how_to_start(args))
    if args.background:
        return detach(launch, args)
    document: dict[str, Any] = {}

    def show(
        result: RunResult, launch: Launch, tracker: MLflowTracker, args: argparse.Namespace
    ) -> None:
        document.update(_show(result, launch, tracker, args))

    drive(launch, args, show)
    if sweep_of(base).retrain:
        document["retrained"] = _retrain(SweepResult.from_json(document["sweep"]), args)
    if args.json:
        print_json(document)
    return 0


def _show(
    result: RunResult, launch: Launch, tracker: MLflowTracker, args: argparse.Namespace
) -> dict[str, Any]:
    root = result.manifests["search"].root
    found = SweepResult.from_json(json.loads(result.store.read(f"{root}/result/sweep.json")))
    tracker.figures({"hypervolume": found.hypervolume[-1], "trials": len(found.trials)})
    places = places_of(result, launch, step="search", page="sweep.html")
    if not args.json:
        print_result(found, console_for(args))
        print_places(places, args)
    return {"sweep": found.to_json(), "places": places}


def _retrain(result: SweepResult, args: argparse.Namespace) -> dict[str, Any]:
    """The plain run of the winner's values, which goes on from what its trial has made."""
    winner = result.the_winner()
    again = _with(args, overrides(winner.values))
    again.verb = "run"
    launch = launch_of(again)
    text = f"trial {winner.number} is run with the full budget as {launch.run_id}"
    console_for(args).print(text, highlight=False, markup=False, soft_wrap=True)
    found: dict[str, Any] = {"run_id": launch.run_id}
    drive(launch, again, lambda *given: found.update(show_summary(*given)))
    return found


def _with(args: argparse.Namespace, more: list[str]) -> argparse.Namespace:
    given = copy.copy(args)
    given.overrides = [*args.overrides, *more]
    return given
