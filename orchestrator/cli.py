"""The command line: verbs come from the entry point group ``gammaray.commands``.

A verb is a module with a docstring, ``configure(parser)`` and ``execute(args) -> int``.
This file is the only place that reads environment variables on their behalf.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from importlib.metadata import entry_points

from orchestrator.durable import DurableError
from orchestrator.errors import PreflightError, RecipeError
from orchestrator.secrets import without_credentials
from workloads.errors import WorkloadError


class ExitCode(IntEnum):
    """What a shell learns from a verb."""

    DONE = 0
    FAILED = 1
    WRONG_USAGE = 2
    RESUMABLE = 3
    INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``gammaray``; returns its exit code."""
    args = _parse(list(sys.argv[1:] if argv is None else argv))
    return exit_code_of(lambda: args.execute(args))


def exit_code_of(execute: Callable[[], int]) -> int:
    """Run what a verb does; an error that it may end with becomes a line and an exit code."""
    try:
        return int(execute())
    except KeyboardInterrupt:
        _say("interrupted; the same command continues from here")
        return ExitCode.INTERRUPTED
    except (RecipeError, WorkloadError) as error:
        _say(str(error))
        return ExitCode.WRONG_USAGE
    except (PreflightError, DurableError) as error:
        _say(str(error))
        return error.exit_code


def _parse(argv: list[str]) -> argparse.Namespace:
    """Parse ``argv``, importing only the verb it names; for help and for a wrong one, all."""
    parser = argparse.ArgumentParser(
        prog="gammaray", description="Turns a dense multimodal LLM into a Mixture-of-Depths one."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    known = {entry.name: entry for entry in entry_points(group="gammaray.commands")}
    named = [name for name in argv[:1] if name in known] or sorted(known)
    for name in named:
        module = known[name].load()
        summary = (module.__doc__ or "").strip().splitlines()[0]
        verb = verbs.add_parser(name, help=summary, description=summary)
        module.configure(verb)
        verb.set_defaults(execute=module.execute, environment=dict(os.environ))
    args, rest = parser.parse_known_args(argv)
    # argparse takes positionals in one piece only: `RECIPE --store DIR key=value` has two.
    if any(text.startswith("-") for text in rest) or (rest and "overrides" not in args):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def _say(text: str) -> None:
    sys.stderr.write(f"gammaray: {without_credentials(text)}\n")


if __name__ == "__main__":
    sys.exit(main())
