"""Validate a LLaVA-format dataset, or turn it into shards, before a GPU is taken."""

import argparse
from collections import Counter
from pathlib import Path

from orchestrator.commands.output import add_json_flag, console_for, print_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    what = parser.add_subparsers(dest="what", required=True, metavar="check|build")
    check = what.add_parser("check", help="read every record and image, write nothing")
    build = what.add_parser("build", help="check, then write a memory-mapped Arrow shard")
    build.add_argument("--out", type=Path, required=True, metavar="FILE.arrow")
    for verb in (check, build):
        verb.add_argument("path", type=Path, metavar="PATH", help="LLaVA-format JSON")
        verb.add_argument(
            "--images", type=Path, help="folder the image paths start from; default: beside PATH"
        )
        add_json_flag(verb)


def execute(args: argparse.Namespace) -> int:
    """Check, and build if asked.

    Raises:
        DataError: For the first record or image that cannot be used.
    """
    from workloads.data import read_llava, write_shard  # seconds of imports other verbs do not pay

    images = args.images or args.path.parent
    conversations = read_llava(args.path, images)
    if args.what == "build":
        write_shard(conversations, images, args.out)
    counted = {
        "conversations": len(conversations),
        "images": len({image for c in conversations for image in c.images}),
        "text_only": sum(not c.images for c in conversations),
        "turns": dict(sorted(Counter(len(c.turns) for c in conversations).items())),
    }
    if args.json:
        print_json(counted)
    else:
        console_for(args).print(f"{args.path}: {counted}", highlight=False, markup=False)
    return 0
