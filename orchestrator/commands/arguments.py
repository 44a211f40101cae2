"""Arguments that several verbs share."""

import argparse

from orchestrator.commands.output import add_json_flag
from orchestrator.launch import Launch, prepare, store_url


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """A recipe with overrides, the store, and JSON output."""
    parser.add_argument("recipe", metavar="RECIPE", help="name of a shipped recipe, or a YAML file")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="values in place of the recipe's"
    )
    add_store(parser)


def add_store(parser: argparse.ArgumentParser) -> None:
    """The store, and JSON output."""
    parser.add_argument(
        "--store",
        metavar="URL",
        help="where results are kept: a directory or s3://bucket/prefix "
        "(default: $GAMMARAY_STORE, or ~/.gammaray)",
    )
    add_json_flag(parser)


def launch_of(args: argparse.Namespace) -> Launch:
    """What the recipe, the overrides and the store amount to."""
    return prepare(args.recipe, args.overrides, url_of(args))


def url_of(args: argparse.Namespace) -> str:
    """The store that was asked for."""
    return store_url(args.store, args.environment)
