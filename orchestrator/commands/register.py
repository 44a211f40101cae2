"""Show the versions of a registered model, promote one, roll back, or fetch one for upload."""

import argparse
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError
from rich.table import Table

from orchestrator.commands.arguments import add_tracking, tracking_uri_of
from orchestrator.commands.output import console_for, print_json
from orchestrator.errors import RecipeError
from orchestrator.recipe import Promotion
from orchestrator.secrets import without_credentials
from orchestrator.tracking import public
from orchestrator.tracking.errors import TrackingAwayError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LATEST = "candidate"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("name", metavar="NAME", help="name in the registry: register.name")
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--promote",
        nargs="?",
        const=_LATEST,
        metavar="VERSION",
        help="check the promotion rule again and, if it holds, give VERSION the alias champion "
        "(default: the candidate)",
    )
    action.add_argument(
        "--rollback", action="store_true", help="give the alias back to the champion before"
    )
    action.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="fetch the champion, or the candidate, as a folder for `hf upload`",
    )
    parser.add_argument(
        "--rule",
        nargs="+",
        default=[],
        metavar="key=value",
        help="values in place of the rule's that the version was registered with, such as "
        "against_champion=false",
    )
    add_tracking(parser)


def execute(args: argparse.Namespace) -> int:
    """Do it; 1 if a promotion was refused."""
    uri = tracking_uri_of(args)
    from orchestrator.registry import telling_when_away

    try:
        with telling_when_away(uri):
            return _act(args, uri)
    except ConnectionError as error:
        raise TrackingAwayError(public(uri), without_credentials(str(error))) from error


def _act(args: argparse.Namespace, uri: str) -> int:
    from orchestrator.tracking.records import open_client

    client = open_client(uri)
    if args.promote is not None:
        return _promote(client, uri, args)
    if args.rollback:
        return _roll_back(client, uri, args)
    if args.export is not None:
        return _export(client, uri, args)
    return _show(client, args)


def _promote(client: "MlflowClient", uri: str, args: argparse.Namespace) -> int:
    from orchestrator.registry import Promoter, Verdict, version_of

    promoter = Promoter(client, uri, args.name)
    version = version_of(client, args.name, args.promote)
    rule = _rule(promoter.rule_of(version), args.rule, args.name)
    decision = promoter.consider(version, rule, may_move=True, is_by_hand=True)
    if args.json:
        print_json(decision.to_json())
    else:
        text = f"{args.name} version {version} {decision.verdict}: {decision.reason}"
        console_for(args).print(text, highlight=False, markup=False, soft_wrap=True)
    return 0 if decision.verdict is Verdict.PROMOTED else 1


def _roll_back(client: "MlflowClient", uri: str, args: argparse.Namespace) -> int:
    from orchestrator.registry import Promoter, aliases_of

    aliases_of(client, args.name)
    done = Promoter(client, uri, args.name).roll_back()
    if args.json:
        print_json({"name": done.name, "champion": done.version, "instead_of": done.instead_of})
    else:
        text = f"{done.name}: version {done.version} is the champion in place of {done.instead_of}"
        console_for(args).print(text, highlight=False, markup=False)
    return 0


def _export(client: "MlflowClient", uri: str, args: argparse.Namespace) -> int:
    from orchestrator.registry import RegistryError, aliases_of, version_of
    from orchestrator.registry.files import MODEL, fetch

    target: Path = args.export
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RegistryError(args.name, f"{target} is there already; give a new or an empty folder")
    aliases = aliases_of(client, args.name)
    version = aliases.get("champion") or version_of(client, args.name, _LATEST)
    with tempfile.TemporaryDirectory(prefix="gammaray-") as scratch:
        found = client.get_model_version(args.name, version)
        folder = fetch(client, uri, found, MODEL, Path(scratch))
        shutil.copytree(folder, target, dirs_exist_ok=True)
    if args.json:
        print_json({"name": args.name, "version": version, "folder": str(target)})
    else:
        text = f"{args.name} version {version} is in {target}; hf upload ORGANISATION/NAME {target}"
        console_for(args).print(text, highlight=False, markup=False, soft_wrap=True)
    return 0


def _show(client: "MlflowClient", args: argparse.Namespace) -> int:
    from orchestrator.registry import aliases_of

    aliases = aliases_of(client, args.name)
    found = client.search_model_versions(f"name = '{args.name}'")
    rows: list[dict[str, Any]] = [
        {
            "version": str(item.version),
            "aliases": sorted(alias for alias, at in aliases.items() if at == str(item.version)),
            "accuracy": item.tags.get("gammaray.accuracy"),
            "decision": item.tags.get("gammaray.decision"),
            "reason": item.tags.get("gammaray.decision.reason"),
        }
        for item in sorted(found, key=lambda item: -int(item.version))
    ]
    if args.json:
        print_json({"name": args.name, "versions": rows})
        return 0
    table = Table("version", "aliases", "accuracy", "decision", "why", title=args.name)
    for row in rows:
        told = [row[key] or "" for key in ("accuracy", "decision", "reason")]
        table.add_row(row["version"], ", ".join(row["aliases"]), *told)
    console_for(args).print(table)
    return 0


def _rule(recorded: Promotion | None, overrides: Sequence[str], name: str) -> Promotion:
    """The rule that is asked for.

    Raises:
        RegistryError: If the version has none and none is given.
        RecipeError: If a value is wrong.
    """
    from orchestrator.registry import RegistryError

    if recorded is None and not overrides:
        raise RegistryError(
            name,
            "this version was registered without a promotion rule (register.promote in the "
            "recipe); give one here, such as --rule max_accuracy_drop=0.01 min_flops_saved=0.1",
        )
    values: dict[str, Any] = recorded.model_dump() if recorded else {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise RecipeError("--rule", None, override, "expected key=value")
        values[key] = yaml.safe_load(text)
    return _validated(values)


def _validated(values: Mapping[str, Any]) -> Promotion:
    try:
        return Promotion.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(Promotion.model_fields)
        reason = f"{first['msg']}, got {first['input']!r}; the keys are: {known}"
        raise RecipeError("--rule", None, key, reason) from None
