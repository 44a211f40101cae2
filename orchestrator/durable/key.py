"""What a step's result depends on, and why two such things differ."""

import hashlib
import importlib.util
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | int | float | bool | None"

_SHOWN = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class StepKey:
    """Everything that a step's result is a function of.

    Resources, addresses and paths are never part of it.
    """

    name: str
    version: int
    """Hand-set version of the step's meaning."""

    params: Mapping[str, JSON]
    inputs: Mapping[str, str]
    """Input name to result digest."""

    source: str = ""
    """Digest of the module that holds the step's function; "" when there is no file."""

    strict_code: bool = False
    """Whether ``source`` takes part in the digest or is only remembered."""

    @property
    def digest(self) -> str:
        """64 hexadecimal digits; equal exactly when the results may be shared."""
        parts: dict[str, JSON] = {
            "name": self.name,
            "version": self.version,
            "params": self.params,
            "inputs": self.inputs,
        }
        if self.strict_code:
            parts["source"] = self.source
        return digest("step", parts)


def canonical(value: object, where: str = "value") -> bytes:
    """Encode ``value`` as the one JSON text that stands for it.

    Object names are sorted, tuples are lists, numbers print as Python's shortest form; 1 and
    1.0 stay apart.

    Raises:
        TypeError: For paths, names that are not text and all else that JSON does not hold.
        ValueError: For NaN, infinities and broken Unicode. Both say where it is.
    """
    text = json.dumps(
        _plain(value, where),
        sort_keys=True,
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    )
    return text.encode()


def digest(tag: str, value: object) -> str:
    """SHA-256 of ``value``'s canonical form behind ``tag``, so that two kinds never collide."""
    return hashlib.sha256(f"gammaray.{tag}.v1\n".encode() + canonical(value)).hexdigest()


def source_digest(function: str) -> str:
    """SHA-256 of the file that holds ``module:function``, found without importing it."""
    spec = importlib.util.find_spec(function.partition(":")[0])
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return ""
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def explain(old: StepKey, new: StepKey) -> list[str]:
    """Say in words how ``new`` differs from ``old``; empty when nothing does."""
    lines = []
    if old.version != new.version:
        lines.append(f"version {old.version} -> {new.version}")
    lines += _changes(_plain(old.params, "params"), _plain(new.params, "params"), "")
    for name in sorted(old.inputs.keys() | new.inputs.keys()):
        before, after = old.inputs.get(name), new.inputs.get(name)
        if before != after:
            lines.append(f"input {name} {(before or 'absent')[:12]} -> {(after or 'absent')[:12]}")
    if old.source != new.source:
        effect = "" if new.strict_code else " (not part of the key without --strict-code)"
        lines.append(f"code {old.source[:12] or 'absent'} -> {new.source[:12] or 'absent'}{effect}")
    if old.strict_code != new.strict_code:
        lines.append(f"strict code {old.strict_code} -> {new.strict_code}")
    return [f"{new.name}: {line}" for line in lines]


def _changes(old: object, new: object, where: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            inner = f"{where}.{name}" if where else str(name)
            if name not in new:
                yield f"{inner} {_shown(old[name])} -> absent"
            elif name not in old:
                yield f"{inner} absent -> {_shown(new[name])}"
            else:
                yield from _changes(old[name], new[name], inner)
    elif canonical(old) != canonical(new):
        yield f"{where} {_shown(old)} -> {_shown(new)}"


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _plain(value: object, where: str) -> object:
    """``value`` in exact JSON types."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Mapping):
        return {_text(name, where): _plain(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    return _scalar(value, where)


def _scalar(value: object, where: str) -> str | int | float:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} must be a finite number, got {value}")
        return float(value)
    if isinstance(value, os.PathLike):
        raise TypeError(
            f"{where} must not be a path, got {os.fspath(value)!r}: the same place can hold other "
            "data tomorrow. Declare it as an input, External(digest=..., path=...), or move it to "
            "the settings"
        )
    if isinstance(value, str):
        return _text(value, where)
    raise ValueError(
        f"{where} must be JSON (text, number, bool, null, list, object), got {value!r}"
    )


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{where} must have text as names, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} must be valid Unicode, got {value!r}") from error
    return str.__str__(value)
