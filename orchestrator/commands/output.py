"""How verbs speak: text for people, one JSON document for programs, never both."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.errors import PreflightError


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """Every verb has it."""
    parser.add_argument("--json", action="store_true", help="print one JSON document and no text")


def print_json(document: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Print one document on standard output."""
    sys.stdout.write(json.dumps(document, indent=1, sort_keys=True) + "\n")


def check_writable(file: Path) -> None:
    """Find out before any work whether a file can be written; makes its folder.

    Raises:
        PreflightError: If it cannot.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("ab").close()
    except OSError as error:
        raise PreflightError(f"cannot write {file}: {error.strerror}") from error


def console_for(args: argparse.Namespace) -> Console:
    """Standard output for people; standard error when standard output carries JSON."""
    return Console(stderr=bool(args.json))
