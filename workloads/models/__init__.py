import importlib
from typing import TYPE_CHECKING, Any

from workloads.models.locate import EMBEDDED, ModelError, resolve_model

if TYPE_CHECKING:
    from workloads.models.load import load_decoder, load_model, reads_images

__all__ = [
    "EMBEDDED",
    "ModelError",
    "load_decoder",
    "load_model",
    "reads_images",
    "resolve_model",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute may be anything
    # Finding a model is part of planning, which must not wait for transformers and torch.
    if name in ("load_decoder", "load_model", "reads_images"):
        return getattr(importlib.import_module("workloads.models.load"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
