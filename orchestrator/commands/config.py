"""Show the JSON schema of recipes, or a recipe with every value resolved."""

import argparse

import yaml

from orchestrator.commands.output import add_json_flag, console_for, print_json
from orchestrator.recipe import Recipe
from orchestrator.recipe_file import load_recipe


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    what = parser.add_subparsers(dest="what", required=True, metavar="schema|show")
    add_json_flag(what.add_parser("schema", help="the JSON schema of a recipe"))
    show = what.add_parser("show", help="a recipe with every value resolved")
    show.add_argument("recipe", metavar="RECIPE")
    show.add_argument("overrides", nargs="*", metavar="key=value")
    add_json_flag(show)


def execute(args: argparse.Namespace) -> int:
    """Print it."""
    if args.what == "schema":
        print_json(Recipe.model_json_schema(by_alias=True))
        return 0
    values = load_recipe(args.recipe, args.overrides).model_dump(mode="json", by_alias=True)
    if args.json:
        print_json(values)
    else:
        text = yaml.safe_dump(values, sort_keys=False, default_flow_style=False)
        console_for(args).print(text, end="", highlight=False, markup=False)
    return 0
