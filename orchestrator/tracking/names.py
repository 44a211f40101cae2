"""Keys and values as MLflow accepts them (its ``utils/validation.py``)."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

KEY_LENGTH = 250
PARAM_LENGTH = 500
"""Servers before MLflow 2.10 refuse more; the whole recipe is attached as ``recipe.json``."""
TAG_LENGTH = 5000
"""Servers before MLflow 2.14 refuse more."""

_REFUSED = re.compile(r"[^/\w.\- ]")


def clean_keys(values: Mapping[str, Value]) -> dict[str, Value]:
    """Rename keys that MLflow refuses; two that would become one keep apart by a digest."""
    cleaned: dict[str, Value] = {}
    for key, value in values.items():
        name = clean_key(key)
        cleaned[name if name not in cleaned else _with_digest(name, key)] = value
    return cleaned


def clean_key(key: str) -> str:
    """Turn any text into a key that MLflow takes: its characters, a plain path, its length.

    >>> clean_key("skip@layer:3//image")
    'skip_layer_3/image'
    """
    parts = [part for part in _REFUSED.sub("_", key).split("/") if part not in ("", ".", "..")]
    name = "/".join(parts) or "_"
    return name if len(name) <= KEY_LENGTH else _with_digest(name, key)


def flat_params(tree: Mapping[str, object]) -> dict[str, str]:
    """Flatten nested values to ``"finetune.learning_rate": "0.001"``, cut to MLflow's length."""
    return {key: cut(text, PARAM_LENGTH) for key, text in clean_keys(_flattened(tree, "")).items()}


def cut(text: str, length: int) -> str:
    """Shorten ``text`` to ``length`` characters, visibly."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _flattened(tree: Mapping[str, object], prefix: str) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _with_digest(name: str, key: str) -> str:
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    return f"{name[: KEY_LENGTH - len(digest) - 1]}-{digest}"
