"""Start a run, or continue it: the same recipe and values are the same run."""

import argparse

from rich.console import Console

from orchestrator.commands.arguments import add_recipe, launch_of
from orchestrator.commands.output import console_for, print_json
from orchestrator.durable import Runner, on_ray, read_status
from orchestrator.launch import Launch
from orchestrator.observers import Observers
from orchestrator.progress import ProgressBars, ProgressLines
from orchestrator.ray_connection import connect
from orchestrator.report.summary import print_summary
from orchestrator.tracking import MLflowTracker, TrackedRun


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_recipe(parser)
    parser.add_argument(
        "--address", help="Ray cluster to use (default: $RAY_ADDRESS, or Ray on this machine)"
    )
    parser.add_argument(
        "--redo", action="append", default=[], metavar="STEP", help="run STEP again; repeatable"
    )
    parser.add_argument(
        "--strict-code", action="store_true", help="a change of a stage's source redoes it"
    )


def execute(args: argparse.Namespace) -> int:
    """Run to the end and show what came out."""
    console = console_for(args)
    launch = launch_of(args)
    _announce(launch, console)
    tracker = MLflowTracker(
        launch.tracking_uri,
        launch.recipe.tracking.experiment,
        run=TrackedRun(
            run_id=launch.run_id, name=launch.recipe.name, recipe=launch.recipe.identity()
        ),
        store=launch.store,
        tell=lambda text: console.print(text, highlight=False, markup=False),
    )
    bars = ProgressBars(console) if console.is_terminal else ProgressLines(console)
    address = args.address or args.environment.get("RAY_ADDRESS")
    gpus = launch.recipe.workers.gpus > 0
    runner = Runner(
        launch.run_id,
        launch.steps,
        launch.store,
        start_executor=on_ray(lambda: connect(address, gpus=gpus)),
        observer=Observers(bars, tracker),
        recipe=launch.recipe.identity(),
        redo=args.redo,
        strict_code=args.strict_code,
    )
    status = "FAILED"
    try:
        with bars:
            result = runner.run()
        summary = _summary(result, launch)
        tracker.figures(summary.figures)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)
    if args.json:
        print_json(summary.to_json())
    else:
        print_summary(summary, console)
    return 0


def _announce(launch: Launch, console: Console) -> None:
    """The first line, before anything slow: which run this is and whether it continues."""
    try:
        before = f"continues a {read_status(launch.store, launch.run_id).state} run"
    except FileNotFoundError:
        before = "is new"
    text = f"{launch.run_id} {before}: {len(launch.steps)} steps, store {launch.store.url}"
    console.print(text, highlight=False, markup=False, soft_wrap=True)
