"""Validate a LLaVA-format dataset, or turn it into a shard, before a GPU is taken."""

import argparse
from pathlib import Path

from orchestrator.commands.output import add_json_flag, console_for, print_json


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    what = parser.add_subparsers(dest="what", required=True, metavar="check|build")
    check = what.add_parser("check", help="read every record and image, write nothing")
    build = what.add_parser("build", help="check, then write a memory-mapped Arrow shard")
    build.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE.arrow",
        help="a file; a folder of files where it is over 512 MiB",
    )
    build.add_argument(
        "--on-bad-image",
        choices=("stop", "replace"),
        default="stop",
        help="replace: check no image; training replaces samples whose image is missing or damaged",
    )
    for verb in (check, build):
        verb.add_argument(
            "path",
            metavar="PATH",
            help="LLaVA-format .json, .jsonl or .parquet; a file or a URL such as s3://...",
        )
        verb.add_argument(
            "--images", help="folder or URL that image paths start from; default: beside PATH"
        )
        add_json_flag(verb)


def execute(args: argparse.Namespace) -> int:
    """Check, and build if asked.

    Raises:
        DataError: For the first record or image that cannot be used.
    """
    # Seconds of imports that other verbs do not pay.
    from orchestrator.dataset import build_dataset
    from workloads.data import Build

    images = args.images or (args.path.rpartition("/")[0] or ".")
    if args.what == "build":
        args.out.parent.mkdir(parents=True, exist_ok=True)
        summary = build_dataset(Build(args.path, images, args.on_bad_image), args.out)
    else:
        summary = build_dataset(Build(args.path, images), None)
    counted = {
        "conversations": summary.conversations,
        "images": summary.images,
        "text_only": summary.text_only,
        "turns": dict(sorted(summary.turns.items())),
    }
    if summary.missing_images:
        counted["missing_images"] = summary.missing_images
    if args.json:
        print_json(counted)
    else:
        console_for(args).print(f"{args.path}: {counted}", highlight=False, markup=False)
    return 0
