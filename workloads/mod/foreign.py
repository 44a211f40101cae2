"""What transformers hands over and takes back, and this package passes on unread."""

import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

Foreign: TypeAlias = Any


def by_name(method: Callable[..., Foreign], args: tuple[Foreign, ...]) -> dict[str, Foreign]:
    """Positional arguments of a method, without ``self``, under the names it gives them."""
    if not args:
        return {}
    return dict(zip(list(inspect.signature(method).parameters)[1:], args, strict=False))
