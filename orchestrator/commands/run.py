"""Start a run, or continue it: the same recipe and values are the same run."""

import argparse
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Literal

from rich.console import Console

from orchestrator.commands.arguments import add_recipe, launch_of
from orchestrator.commands.moment import parse_moment
from orchestrator.commands.output import console_for, print_json
from orchestrator.durable import JSON, Runner, RunResult, TimeIsUpError, read_status
from orchestrator.durable.record import Spec, write_spec
from orchestrator.launch import Launch
from orchestrator.observers import Observers
from orchestrator.ownership.epochs import announce, last_epoch
from orchestrator.pipeline import needed_for
from orchestrator.progress import ProgressBars, ProgressLines
from orchestrator.ray_connection import connect, on_ray
from orchestrator.registry import check_name
from orchestrator.report import from_store, print_summary, summarize
from orchestrator.runs import tag
from orchestrator.runs.log import RunLog
from orchestrator.scratch import scratch, sweep
from orchestrator.tracking import MLflowTracker, TrackedRun, public

Show = Callable[[RunResult, Launch, MLflowTracker, argparse.Namespace], object]
"""What is done with what came out, while it is still tracked."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_recipe(parser)
    parser.add_argument(
        "--address", help="Ray cluster to use (default: $RAY_ADDRESS, or Ray on this machine)"
    )
    parser.add_argument(
        "--to",
        action="append",
        default=[],
        metavar="STEP",
        help="only STEP and what it depends on; repeatable",
    )
    parser.add_argument(
        "--redo", action="append", default=[], metavar="STEP", help="run STEP again; repeatable"
    )
    parser.add_argument(
        "--tag", metavar="NAME", help="mark the run, so that `gammaray gc` keeps it"
    )
    parser.add_argument(
        "--until",
        type=_moment,
        metavar="TIME",
        help="save and stop at TIME, such as 18:30 or, from now on, 90min; exit code 3",
    )
    parser.add_argument(
        "--background", action="store_true", help="leave it running and return at once"
    )
    parser.add_argument(
        "--strict-code", action="store_true", help="a change of a stage's source redoes it"
    )


def execute(args: argparse.Namespace) -> int:
    """Run to the end and show what came out."""
    launch = launch_of(args)
    if args.background:
        return detach(launch, args)
    drive(launch, args, _show)
    return 0


def drive(launch: Launch, args: argparse.Namespace, show: Show) -> None:
    """Run to the end in this process, then show what came out."""
    console = console_for(args)
    _announce(launch, console)
    sweep()
    try:
        with scratch():
            _drive(launch, args, console, show)
    finally:
        sweep()


def _drive(launch: Launch, args: argparse.Namespace, console: Console, show: Show) -> None:
    tracker = _tracker(launch, console)
    status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
    try:
        result = _run(launch, tracker, args, console)
        show(result, launch, tracker, args)
        status = "FINISHED"
    except (KeyboardInterrupt, TimeIsUpError):
        status = "KILLED"
        raise
    finally:
        left = tracker.close(status)
    if left:
        console.print(f"MLflow was not told {left}", highlight=False, markup=False)


def _run(
    launch: Launch, tracker: MLflowTracker, args: argparse.Namespace, console: Console
) -> RunResult:
    address = args.address or args.environment.get("RAY_ADDRESS")
    uses_gpus = launch.recipe.workers.gpus > 0
    spec = _spec(launch, args)

    def start_ray() -> None:
        tracker.open()  # MLflow takes seconds to import, as Ray takes to start
        connect(address, uses_gpus=uses_gpus)

    progressing = ProgressBars(console) if console.is_terminal else ProgressLines(console)
    with progressing as progress, closing(RunLog(launch.store, launch.run_id)) as log:
        if args.tag:
            tag(launch.store, launch.run_id, args.tag)
        return Runner(
            launch.run_id,
            spec.steps,
            launch.store,
            start_executor=on_ray(start_ray),
            observer=Observers(progress, tracker, log),
            recipe=spec.recipe,
            metadata=spec.metadata,
            redo=args.redo,
            strict_code=args.strict_code,
            stop_at_s=args.until,
        ).run()


def _moment(text: str) -> float:
    try:
        return parse_moment(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _spec(launch: Launch, args: argparse.Namespace) -> Spec:
    return Spec(
        steps=needed_for(launch.steps, args.to) if args.to else launch.steps,
        recipe=launch.identity,
        metadata=how_to_start(args),
    )


def how_to_start(args: argparse.Namespace) -> dict[str, JSON]:
    """What ``gammaray resume`` needs to give the same command again, without any password."""
    path = Path(args.recipe)
    overrides = [public(override) for override in args.overrides]
    recipe = str(path.resolve()) if path.suffix and path.is_file() else args.recipe
    return {
        "verb": args.verb,
        "recipe": recipe,
        "overrides": overrides,
        "to": list(args.to),
    }


def detach(launch: Launch, args: argparse.Namespace) -> int:
    """Start the same command in a session of its own; what it says is in the run's log.

    Until that process owns the run, the run is pending.
    """
    _announce(launch, console_for(args))
    command = [sys.executable, "-m", "orchestrator.cli", args.verb, args.recipe, *args.overrides]
    command += ["--store", launch.store.url]
    for option, values in (("--to", args.to), ("--redo", args.redo)):
        command += [text for value in values for text in (option, value)]
    for option, value in (("--address", args.address), ("--tag", args.tag)):
        command += [option, value] if value else []
    command += ["--strict-code"] if args.strict_code else []
    if args.until is not None:
        command += ["--until", f"@{args.until!r}"]
    quiet = subprocess.DEVNULL
    epoch = last_epoch(launch.store, launch.run_id) + 1
    write_spec(launch.store, launch.run_id, epoch, _spec(launch, args))
    process = subprocess.Popen(
        command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
    )
    announce(launch.store, launch.run_id, epoch, process.pid)
    if args.json:
        print_json({"run_id": launch.run_id, "pid": process.pid})
    else:
        text = f"process {process.pid} drives it; watch it with: gammaray status {launch.run_id}"
        console_for(args).print(text, highlight=False, markup=False, soft_wrap=True)
    return 0


def _tracker(launch: Launch, console: Console) -> MLflowTracker:
    return MLflowTracker(
        launch.tracking_uri,
        launch.recipe.tracking.experiment,
        run=TrackedRun(
            run_id=launch.run_id,
            name=launch.run_id.rpartition("-")[0],
            recipe=launch.identity,
        ),
        store=launch.store,
        tell=lambda text: console.print(text, highlight=False, markup=False),
        check=lambda records: check_name(records.client, launch.recipe.register_as.name),
    )


def _show(
    result: RunResult, launch: Launch, tracker: MLflowTracker, args: argparse.Namespace
) -> None:
    document = show_summary(result, launch, tracker, args)
    if args.json and document:
        print_json(document)


def show_summary(
    result: RunResult, launch: Launch, tracker: MLflowTracker, args: argparse.Namespace
) -> dict[str, JSON]:
    """Print what came out, but for programs; returns it for them, empty without an evaluation."""
    documents = from_store(result.store, result.manifests)
    if not {"dense", "mod"} <= documents.keys():
        return {}
    summary = summarize(documents)
    tracker.figures(summary.figures)
    places = places_of(result, launch, step="report", page="report.html")
    if not args.json:
        print_summary(summary, console_for(args))
        print_places(places, args)
    return {**summary.to_json(), "places": places}


def places_of(result: RunResult, launch: Launch, *, step: str, page: str) -> dict[str, JSON]:
    """Where to look next: MLflow, and the page that a step has written."""
    places: dict[str, JSON] = {"MLflow": public(launch.tracking_uri)}
    if step in result.manifests:
        path = f"{result.manifests[step].root}/measurement/{page}"
        places["report"] = str(result.store.local_path(path) or f"{result.store.url}/{path}")
    return places


def print_places(places: Mapping[str, JSON], args: argparse.Namespace) -> None:
    """Say where to look next."""
    for name, place in places.items():
        text = f"{name}: {place}"
        console_for(args).print(text, highlight=False, markup=False, soft_wrap=True)


def _announce(launch: Launch, console: Console) -> None:
    """The first line, before anything slow: which run this is and whether it continues."""
    try:
        before = f"continues a {read_status(launch.store, launch.run_id).state} run"
    except FileNotFoundError:
        before = "is new"
    text = f"{launch.run_id} {before}: {len(launch.steps)} steps, store {launch.store.url}"
    console.print(text, highlight=False, markup=False, soft_wrap=True)
