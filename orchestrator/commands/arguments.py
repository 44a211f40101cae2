"""Arguments that several verbs share."""

import argparse

from orchestrator.commands.output import add_json_flag
from orchestrator.durable import Store, open_store
from orchestrator.errors import PreflightError
from orchestrator.launch import Launch, prepare, store_url
from orchestrator.ownership.epochs import newest_epoch
from orchestrator.tracking import TrackingError, check_reachable, resolve_tracking_uri
from orchestrator.tracking.location import sqlite_file


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """A recipe with overrides, the store, and JSON output."""
    add_recipe_alone(parser)
    add_store(parser)


def add_recipe_alone(parser: argparse.ArgumentParser) -> None:
    """A recipe with overrides."""
    parser.add_argument("recipe", metavar="RECIPE", help="name of a shipped recipe, or a YAML file")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="values in place of the recipe's"
    )


def add_store(parser: argparse.ArgumentParser) -> None:
    """The store, and JSON output."""
    parser.add_argument(
        "--store",
        metavar="URL",
        help="where results are kept: a directory or s3://bucket/prefix "
        "(default: $GAMMARAY_STORE, or ~/.gammaray)",
    )
    add_json_flag(parser)


def add_tracking(parser: argparse.ArgumentParser) -> None:
    """MLflow, by its own address or beside the store, and JSON output."""
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow (default: mlflow.db in a local store)"
    )
    add_store(parser)


def tracking_uri_of(args: argparse.Namespace) -> str:
    """Where MLflow is; nothing is made there.

    Raises:
        TrackingError: If it cannot be reached, or there is no such database.
    """
    uri = resolve_tracking_uri(args.tracking_uri, url_of(args))
    check_reachable(uri)
    database = sqlite_file(uri)
    if database is not None and not database.exists():
        raise TrackingError(
            uri, "there is no such database; give the --store or --tracking-uri of the run"
        )
    return uri


def add_run(parser: argparse.ArgumentParser) -> None:
    """A run of a store."""
    parser.add_argument("run", metavar="RUN", help="a run's id, as `gammaray list` shows it")
    add_store(parser)


def run_of(args: argparse.Namespace) -> tuple[Store, str]:
    """The store, and the run that was named.

    Raises:
        PreflightError: If there is no such run.
    """
    store = open_store(url_of(args))
    if not newest_epoch(store, args.run):
        raise PreflightError(
            f"store {store.url} has no run {args.run!r}; `gammaray list` shows those that there are"
        )
    return store, args.run


def launch_of(args: argparse.Namespace) -> Launch:
    """What the recipe, the overrides and the store amount to."""
    return prepare(args.recipe, args.overrides, url_of(args))


def url_of(args: argparse.Namespace) -> str:
    """The store that was asked for."""
    return store_url(args.store, args.environment)
