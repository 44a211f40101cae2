"""From YAML text and ``key=value`` overrides to a `Recipe`, with errors that name the line."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from orchestrator.errors import RecipeError
from orchestrator.recipe import KINDS, Recipe
from orchestrator.sweep.checks import space_problem

COMMAND_LINE = "command line"


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers: 1.1, which PyYAML follows, takes ``2e-5`` for a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by the name it is shipped under, or from a file.

    Args:
        name_or_path: ``digits``, or the path of a YAML file.
        overrides: ``dotted.key=value`` strings; values are YAML.

    Raises:
        RecipeError: If the recipe cannot be found, read or validated.
    """
    path = _find(name_or_path)
    source = path.name if path.parent == _shipped() else str(path)
    values, lines = _read(path, source)
    sources: dict[str, tuple[str, int | None]] = {
        key: (source, line) for key, line in lines.items()
    }
    for override in overrides:
        key, value = _parse_override(override)
        _assign(values, key, value)
        sources[key] = (COMMAND_LINE, None)
    try:
        recipe = Recipe.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise _explain(error, source, sources) from None
    problem = space_problem(recipe)
    if problem is not None:
        key, reason = problem
        raise RecipeError(*_place(key.split("."), source, sources), key, reason)
    return recipe


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in _shipped().glob("*.yaml"))


def _shipped() -> Path:
    return Path(str(files("orchestrator"))) / "recipes"


def _find(name_or_path: str) -> Path:
    shipped = _shipped() / f"{name_or_path}.yaml"
    path = shipped if shipped.is_file() else Path(name_or_path)
    if not path.is_file():
        known = ", ".join(shipped_recipes())
        raise RecipeError(
            name_or_path,
            None,
            "",
            f"no such recipe; give the path of a YAML file or one of: {known}",
        )
    return path


def _read(path: Path, source: str) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=_Loader)
        lines = dict(_key_lines(root, "", source))
        values = yaml.load(text, Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(source, None, "", f"cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        problem = getattr(error, "problem", None) or error
        raise RecipeError(source, line, "", f"not valid YAML: {problem}") from error
    if not isinstance(values, dict):
        raise RecipeError(source, 1, "", f"expected keys and values, got {type(values).__name__}")
    return values, lines


def _key_lines(node: yaml.Node | None, prefix: str, source: str) -> Iterator[tuple[str, int]]:
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key_node, value_node in node.value:
        key = f"{prefix}{key_node.value}"
        line = key_node.start_mark.line + 1
        if key in seen:
            raise RecipeError(source, line, key, "given twice; keep one of them")
        seen.add(key)
        yield key, line
        yield from _key_lines(value_node, f"{key}.", source)


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(COMMAND_LINE, None, override, "expected key=value, such as seed=1")
    try:
        return key, yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise RecipeError(COMMAND_LINE, None, key, f"value is not valid YAML: {error}") from error


def _assign(values: dict[str, Any], dotted: str, value: object) -> None:
    *sections, last = dotted.split(".")
    for section in sections:
        child = values.setdefault(section, {})
        if not isinstance(child, dict):
            raise RecipeError(COMMAND_LINE, None, dotted, f"{section!r} is a value, not a section")
        values = child
    values[last] = value


_FIRST = {"extra_forbidden": 0, "missing": 2}
"""A misspelt key also leaves the right one missing: the misspelling is the news."""


def _explain(
    error: ValidationError, source: str, sources: Mapping[str, tuple[str, int | None]]
) -> RecipeError:
    first = min(error.errors(), key=lambda problem: _FIRST.get(problem["type"], 1))
    path = _user_path(first["loc"])
    key = ".".join(path)
    reason = _reason(first, path)
    where, line = _place(path, source, sources)
    return RecipeError(where, line, key, reason)


def _place(
    path: Sequence[str], source: str, sources: Mapping[str, tuple[str, int | None]]
) -> tuple[str, int | None]:
    """Where the key, or the nearest one around it, was given."""
    while path and ".".join(path) not in sources:
        path = path[:-1]
    return sources.get(".".join(path), (source, None))


def _user_path(location: Sequence[str | int]) -> list[str]:
    """Pydantic puts a union's tag into the path; a user never wrote it there."""
    return [str(part) for part in location if part not in KINDS]


def _reason(problem: Mapping[str, Any], path: Sequence[str]) -> str:
    if problem["type"] == "extra_forbidden":
        known = _known_keys(Recipe, problem["loc"][:-1])
        close = get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(known))}"
        return f"unknown key; {hint}"
    if problem["type"] == "missing":
        return "missing; the recipe must set it"
    if problem["type"] == "union_tag_invalid":
        known = problem["ctx"]
        expected = f"{known['discriminator']} must be one of {known['expected_tags']}"
        return f"{expected}, got {known['tag']!r}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] in ("value_error", "model_type", "union_tag_not_found"):
        return message
    return f"{message}, got {problem['input']!r}"


def _known_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    candidates = [model]
    for part in location:
        if part in KINDS:
            candidates = [m for m in candidates if part in _tag_values(m)]
            continue
        nested = [
            model
            for candidate in candidates
            for name, field in candidate.model_fields.items()
            if part in (name, field.alias)
            for model in _models_in(field.annotation)
        ]
        candidates = nested or candidates  # the name of an entry is no field
    return [field.alias or name for m in candidates for name, field in m.model_fields.items()]


def _tag_values(model: type[BaseModel]) -> set[str]:
    return {
        str(value)
        for field in ("source", "method")
        if field in model.model_fields
        for value in get_args(model.model_fields[field].annotation)
    }


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
