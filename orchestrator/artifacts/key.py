"""What a step's result depends on, and why two such things differ."""

import hashlib
import importlib.util
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | int | float | bool | None"

_SHOWN = 60
_EXACT = frozenset({str, int, bool, type(None)})
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, kw_only=True, slots=True)
class StepKey:
    """Everything a step's result is a function of: never resources, addresses or paths."""

    name: str
    version: int
    params: Mapping[str, JSON]
    inputs: Mapping[str, str]
    """Input name to result digest."""

    source: str = ""
    """Digest of the module that holds the step's function; "" when there is no file."""

    strict_code: bool = False
    """Whether ``source`` takes part in the digest or is only remembered."""

    _digest: str = field(default="", init=False, repr=False, compare=False)

    @property
    def digest(self) -> str:
        """64 hexadecimal digits; equal exactly when the results may be shared."""
        if not self._digest:
            object.__setattr__(self, "_digest", self._compute())
        return self._digest

    def _compute(self) -> str:
        parts: dict[str, JSON] = {
            "name": self.name,
            "version": self.version,
            "params": self.params,
            "inputs": self.inputs,
        }
        return digest("step", parts | ({"source": self.source} if self.strict_code else {}))


def canonical(value: object, where: str = "value") -> bytes:
    """Encode ``value`` as the one JSON text that stands for it.

    Object names are sorted, tuples are lists, numbers print as Python's shortest form; 1 and
    1.0 stay apart.

    Raises:
        TypeError: For paths, names that are not text and all else that JSON does not hold.
        ValueError: For NaN, infinities and broken Unicode.
    """
    return _ENCODER.encode(_plain(value, where)).encode()


def digest(tag: str, value: object) -> str:
    """SHA-256 of ``value``'s canonical form behind ``tag``, so that two kinds never collide."""
    return hashlib.sha256(f"gammaray.{tag}.v1\n".encode() + canonical(value)).hexdigest()


@lru_cache(maxsize=1024)
def source_digest(function: str) -> str:
    """SHA-256 of the file that holds ``module:function``, found without importing it.

    Read once per process: a run sees one state of the code, also when a file is edited meanwhile.
    """
    spec = importlib.util.find_spec(function.partition(":")[0])
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return ""
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def explain(old: StepKey, new: StepKey) -> list[str]:
    """Say in words how ``new`` differs from ``old``; empty when nothing does."""
    lines = list(_changes({"version": old.version}, {"version": new.version}, ""))
    lines += _changes(_plain(old.params, ""), _plain(new.params, ""), "")
    for name in sorted(old.inputs.keys() | new.inputs.keys()):
        before, after = old.inputs.get(name, "absent"), new.inputs.get(name, "absent")
        if before != after:
            lines.append(f"input {name} {before[:12]} -> {after[:12]}")
    if (old.source, old.strict_code) != (new.source, new.strict_code):
        effect = "" if new.strict_code else " (not part of the key without --strict-code)"
        lines.append(f"code {old.source[:12] or 'absent'} -> {new.source[:12] or 'absent'}{effect}")
    return [f"{new.name}: {line}" for line in lines]


def _changes(old: object, new: object, where: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            inner = f"{where}.{name}" if where else str(name)
            if name in old and name in new:
                yield from _changes(old[name], new[name], inner)
            else:
                before, after = (
                    _shown(each[name]) if name in each else "absent" for each in (old, new)
                )
                yield f"{inner} {before} -> {after}"
    elif canonical(old) != canonical(new):
        yield f"{where} {_shown(old)} -> {_shown(new)}"


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _plain(value: object, where: str) -> object:
    """``value`` in exact JSON types."""
    if type(value) in _EXACT:
        return value
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"{where} must have text as names, got {name!r}")
        return {name: _plain(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        raise TypeError(
            f"{where} must not be a path, got {os.fspath(value)!r}: the same place can hold other "
            "data tomorrow. Declare it as an input, External(digest=..., path=...), or move it to "
            "the settings"
        )
    if not isinstance(value, str | int | float | None):
        raise TypeError(
            f"{where} must be JSON (text, number, bool, null, list, object), got {value!r}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} must be a finite number, got {value}")
    return value
