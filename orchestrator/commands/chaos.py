"""Run a recipe undisturbed and under faults, and compare what it leaves."""

import argparse
import shutil
import tempfile
from collections import deque
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from orchestrator.chaos import Arena, Fault, FaultKind, Results, Round, draw_faults
from orchestrator.commands.arguments import add_recipe_alone
from orchestrator.commands.output import (
    add_json_flag,
    check_writable,
    console_for,
    print_json,
)
from orchestrator.errors import PreflightError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_recipe_alone(parser)
    parser.add_argument("--faults", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[kind.name.lower() for kind in FaultKind],
        help="kinds of faults (default: all)",
    )
    parser.add_argument("--folder", type=Path, help="keep stores, records and logs of all runs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the tables as Markdown")
    add_json_flag(parser)


def execute(args: argparse.Namespace) -> int:
    """One undisturbed run, then disturbed ones until the schedule is used up; 1 if they differ.

    Raises:
        PreflightError: If there is no fault to inflict, the undisturbed run fails, or what is
            shown could not be kept.
    """
    if args.faults < 1:
        raise PreflightError(f"--faults must be at least 1, got {args.faults}")
    if args.folder is not None and args.folder.exists() and any(args.folder.iterdir()):
        raise PreflightError(f"{args.folder} is not empty: every series has a folder of its own")
    if args.out is not None:
        check_writable(args.out)
    console = console_for(args)
    kinds = [FaultKind[name.upper()] for name in args.only or [kind.name for kind in FaultKind]]
    schedule = deque(draw_faults(args.faults, args.seed, kinds))
    folder = args.folder or Path(tempfile.mkdtemp(prefix="gammaray-chaos-"))
    try:
        results = _series(args, folder, schedule, console)
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    if args.out is not None:
        args.out.write_text(results.tables())
    if args.json:
        print_json(results.to_json())
    else:
        console.print(Markdown(results.tables()))
    return 0 if results.passed else 1


def _series(
    args: argparse.Namespace, folder: Path, schedule: deque[Fault], console: Console
) -> Results:
    undisturbed, last_words = _round(args, folder / "undisturbed", deque(), console)
    if undisturbed.remains is None:
        raise PreflightError(
            f"the undisturbed run of {args.recipe} does not succeed: try it by `gammaray run`. "
            f"It said: {last_words}"
        )
    disturbed: list[Round] = []
    while schedule:
        done, _ = _round(args, folder / f"{len(disturbed) + 1}", schedule, console)
        disturbed.append(done)
    return Results(undisturbed=undisturbed, disturbed=disturbed)


def _round(
    args: argparse.Namespace, folder: Path, schedule: deque[Fault], console: Console
) -> tuple[Round, str]:
    """How a run went, and the last line its drivers printed."""

    def tell(text: str) -> None:
        console.print(f"{folder.name}: {text}", highlight=False, markup=False)

    tell(f"{len(schedule)} faults to come" if schedule else "started")
    arena = Arena(folder.absolute(), args.recipe, args.overrides, args.environment, tell)
    done = arena.run(schedule)
    codes = ", ".join(map(str, done.exit_codes))
    tell(f"done in {done.seconds:.0f} s; drivers ended with {codes}")
    return done, arena.last_words()
