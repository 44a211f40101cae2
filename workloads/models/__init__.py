from typing import TYPE_CHECKING, Any

from workloads.models.locate import EMBEDDED, ModelError, resolve_model

if TYPE_CHECKING:
    from workloads.models.load import load_model

__all__ = ["EMBEDDED", "ModelError", "load_model", "resolve_model"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute may be anything
    # Finding a model is part of planning, which must not wait for transformers and torch.
    if name == "load_model":
        from workloads.models.load import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
