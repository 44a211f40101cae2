"""The values of a trial, and the recipe that they make of the sweep's own."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from orchestrator.recipe import Recipe

Values = Mapping[str, Any]
"""Dotted key of the recipe to its value."""

_TAGS = ("method", "source")
"""Keys whose value decides which other keys a section has."""


def trial_recipe(recipe: Recipe, values: Values) -> Recipe:
    """The recipe of one trial: a plain one, so that its run is the plain run of these values.

    Whole sections are put in first, then what is below them.

    Raises:
        ValidationError: If the recipe refuses the values, or two of them together.
    """
    tree = _tree(recipe)
    for path in _outer_first(values):
        _put(tree, path, values[path])
    return Recipe.model_validate_json(json.dumps(tree))


def active(recipe: Recipe, values: Values) -> dict[str, Any]:
    """The values that say something: a section may be of a kind that does not have the key."""
    tree = _tree(recipe)
    found: dict[str, Any] = {}
    for path in _outer_first(values):
        if _has(tree, path):
            _put(tree, path, values[path])
            found[path] = values[path]
    return found


def keys(recipe: type[BaseModel] = Recipe) -> list[str]:
    """Every dotted key that any recipe can have."""
    return list(dict.fromkeys(_keys(recipe, "")))


def overrides(values: Values) -> list[str]:
    """The values as ``key=value`` of the command line, in an order in which they can be given."""
    return [f"{path}={json.dumps(values[path])}" for path in _outer_first(values)]


def _tree(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", by_alias=True, exclude={"sweep"})


def _outer_first(values: Values) -> list[str]:
    return sorted(values, key=lambda path: (path.count("."), path))


def _put(tree: dict[str, Any], path: str, value: object) -> None:
    *sections, last = path.split(".")
    for section in sections:
        tree[section] = dict(tree.get(section) or {})
        tree = tree[section]
    tree[last] = value


def _has(tree: Mapping[str, Any], path: str) -> bool:
    """Whether the recipe ``tree`` has a place for ``path``, in sections of the kind they are."""
    models: list[type[BaseModel]] = [Recipe]
    node: Any = tree
    *sections, last = path.split(".")
    for name in sections:
        node = (node.get(name) or {}) if isinstance(node, Mapping) else {}
        models = [model for model in _below(models, name) if _is_of_kind(model, node)]
    return any(last == key for model in models for key, _ in _fields(model))


def _is_of_kind(model: type[BaseModel], node: Mapping[str, Any]) -> bool:
    tags = [tag for tag in _TAGS if tag in model.model_fields]
    return all(node.get(tag) in get_args(model.model_fields[tag].annotation) for tag in tags)


def _keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, _ in _fields(model):
        yield f"{prefix}{name}"
        for inner in _below([model], name):
            yield from _keys(inner, f"{prefix}{name}.")


def _below(models: list[type[BaseModel]], name: str) -> list[type[BaseModel]]:
    return [
        inner
        for model in models
        for key, annotation in _fields(model)
        if key == name
        for inner in _models(annotation)
    ]


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        yield field.alias or name, field.annotation


def _models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
