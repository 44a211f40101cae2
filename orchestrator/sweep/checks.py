"""Whether the search space of a recipe fits the recipe, found out before anything starts."""

from collections.abc import Iterator
from difflib import get_close_matches
from itertools import product
from typing import Any

from pydantic import ValidationError

from orchestrator.recipe import KINDS, Recipe
from orchestrator.search_space import Parameter, Sweep
from orchestrator.sweep.values import active, keys, trial_recipe

_NOT_SEARCHED = {
    "name": "names the run",
    "sweep": "is the search itself",
    "workers": "changes no result",
    "tracking": "changes no result",
    "register": "changes no figure",
}


def space_problem(recipe: Recipe) -> tuple[str, str] | None:
    """The first thing that is wrong: the dotted key in the recipe, and the reason; None if fine."""
    if recipe.sweep is None:
        return None
    for path in recipe.sweep.space:
        reason = _path_problem(path) or _value_problem(recipe, recipe.sweep, path)
        if reason:
            return f"sweep.space.{path}", reason
    return _budget_problem(recipe, recipe.sweep)


def _path_problem(path: str) -> str | None:
    section = path.split(".")[0]
    if section in _NOT_SEARCHED:
        return f"cannot be searched: {section} {_NOT_SEARCHED[section]}"
    known = [key for key in keys() if key.split(".")[0] not in _NOT_SEARCHED]
    if path in known:
        return None
    close = get_close_matches(path, known, n=1)
    return "no such key in a recipe; " + (
        f"did you mean {close[0]!r}?" if close else "write it as in finetune.learning_rate"
    )


def _value_problem(recipe: Recipe, sweep: Sweep, path: str) -> str | None:
    """What the recipe says to the values, in each of the sections that the key may stand in."""
    is_anywhere = False
    outer = {key: each for key, each in sweep.space.items() if path.startswith(f"{key}.")}
    for around in product(*(_probes(each) for each in outer.values())):
        for value in _probes(sweep.space[path]):
            values = {**dict(zip(outer, around, strict=True)), path: value}
            if path not in active(recipe, values):
                continue
            is_anywhere = True
            try:
                trial_recipe(recipe, values)
            except ValidationError as error:
                return _refusal(error, path, value)
    return None if is_anywhere else "no trial has this key: its section is of another kind"


def _refusal(error: ValidationError, path: str, value: object) -> str:
    problem = error.errors()[0]
    message = str(problem["msg"]).removeprefix("Value error, ")
    where = ".".join(str(part) for part in problem["loc"] if part not in KINDS)
    hint = ""
    if path.split(".")[-1] in ("method", "source"):
        section = path.rpartition(".")[0]
        hint = f"; to search it, list whole sections: {section}: {{choice: [{{...}}, {{...}}]}}"
    return f"the recipe refuses {value!r}: {where}: {message}{hint}"


def _budget_problem(recipe: Recipe, sweep: Sweep) -> tuple[str, str] | None:
    steps = sweep.proxy.steps or recipe.finetune.steps
    if sweep.early_stopping and sweep.early_stopping.grace >= steps:
        grace = sweep.early_stopping.grace
        return (
            "sweep.early_stopping.grace",
            f"must be below the {steps} steps of a trial, or no trial is compared; got {grace}",
        )
    try:
        trial_recipe(recipe, sweep.proxy.values)
    except ValidationError as error:
        return "sweep.proxy", _refusal(error, "sweep.proxy", sweep.proxy.values)
    return None


def _probes(parameter: Parameter) -> Iterator[Any]:
    """Values that show what the recipe takes: all that can be listed, or both ends."""
    yield from parameter.choice if parameter.choice is not None else parameter.bounds
