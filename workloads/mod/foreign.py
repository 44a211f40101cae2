"""What transformers hands over and takes back, and this package passes on unread."""

from typing import Any, TypeAlias

Foreign: TypeAlias = Any
