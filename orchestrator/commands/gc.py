"""Free the space of runs and results that are no longer needed."""

import argparse
import re
from dataclasses import asdict

from orchestrator.commands.arguments import add_store, url_of
from orchestrator.commands.output import console_for, print_json
from orchestrator.durable import open_store
from orchestrator.runs import Keep, find_garbage, remove_garbage

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--keep-last", type=_count, metavar="N", help="the newest N finished runs")
    parser.add_argument(
        "--keep-tagged",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="runs with a tag, whatever else is asked for (default: yes)",
    )
    parser.add_argument(
        "--size",
        type=parse_size,
        metavar="BYTES",
        help="the newest finished runs whose results fit into it, such as 500G",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    add_store(parser)


def execute(args: argparse.Namespace) -> int:
    """Remove it, or only tell."""
    store = open_store(url_of(args))
    keep = Keep(last=args.keep_last, tagged=args.keep_tagged, budget_bytes=args.size)
    found = (find_garbage if args.dry_run else remove_garbage)(store, keep)
    if args.json:
        print_json({**asdict(found), "dry_run": args.dry_run})
        return 0
    verb = "would remove" if args.dry_run else "removed"
    console_for(args).print(
        f"{verb} {len(found.runs)} runs, {len(found.manifests)} results of {found.bytes / 1e9:.3f} "
        f"GB and {len(found.folders)} leftovers; {found.kept_bytes / 1e9:.3f} GB of results stay",
        highlight=False,
    )
    return 0


def parse_size(text: str) -> int:
    """Bytes of ``"500"``, ``"1.5G"`` or ``"20 GB"``; decimal units."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    if found is None:
        raise argparse.ArgumentTypeError(f"expected a size such as 500G, got {text!r}")
    return int(float(found[1]) * _UNITS[found[2]])


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number of runs, got {text!r}")
    return int(text)
