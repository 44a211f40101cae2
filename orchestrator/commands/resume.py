"""Continue runs that were stopped from outside, as they were started."""

import argparse
import sys

from orchestrator.commands import run, sweep
from orchestrator.commands.arguments import add_store, url_of
from orchestrator.commands.output import console_for
from orchestrator.durable import DurableError, Store, list_runs, open_store, read_spec, read_status
from orchestrator.durable.states import RunState
from orchestrator.errors import PreflightError

_VERBS = {"run": run, "sweep": sweep}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("runs", nargs="*", default=[], metavar="RUN", help="ids of runs")
    which.add_argument("--all", action="store_true", help="every run that is resumable")
    parser.add_argument("--address", help="Ray cluster to use (default: as for `gammaray run`)")
    add_store(parser)


def execute(args: argparse.Namespace) -> int:
    """Continue one after the other; returns the worst of their exit codes."""
    store = open_store(url_of(args))
    worst = 0
    for run_id in _resumable(store) if args.all else args.runs:
        try:
            worst = max(worst, _continue(store, run_id, args))
        except DurableError as error:
            console_for(args).print(f"{run_id}: {error}", highlight=False, markup=False)
            worst = max(worst, error.exit_code)
    return worst


def _resumable(store: Store) -> list[str]:
    found = list_runs(store)
    return [name for name in found if read_status(store, name).state is RunState.RESUMABLE]


def _continue(store: Store, run_id: str, args: argparse.Namespace) -> int:
    """Give the command again that started a run.

    Raises:
        PreflightError: If there is no such run, or it was not started by such a command.
    """
    try:
        start = read_spec(store, run_id)["metadata"]
        command = [start["recipe"], *start["overrides"], "--store", store.url]
        command += [text for step in start["to"] for text in ("--to", step)]
    except (FileNotFoundError, KeyError) as error:
        raise PreflightError(f"{run_id} was not started by `gammaray run`: {error}") from error
    verb = start.get("verb", "run")
    module = _VERBS[verb]
    parser = argparse.ArgumentParser(prog=f"{sys.argv[0]} {verb}")
    module.configure(parser)
    given = parser.parse_args([*command, *(["--json"] if args.json else [])])
    given.verb, given.environment, given.address = verb, args.environment, args.address
    return int(module.execute(given))
