import importlib
from typing import TYPE_CHECKING, Any

from workloads.training.config import TrainingConfig, Validation
from workloads.training.errors import TrainingError, TrainingStoppedError
from workloads.training.guards import Guards

if TYPE_CHECKING:
    from workloads.training.blank_image import blank_image_for_text, blank_image_inputs
    from workloads.training.checkpoints.saver import Notice
    from workloads.training.checkpoints.store import Checkpoints, CheckpointStore
    from workloads.training.digest import weights_digest
    from workloads.training.engine import Engine, TorchEngine
    from workloads.training.loop import TrainingResult, train
    from workloads.training.micro_batch import Batches
    from workloads.training.parts import choose_parts, named_parts, parameter_groups
    from workloads.training.ranks import Ranks
    from workloads.training.validation import Validator

__all__ = [
    "Batches",
    "CheckpointStore",
    "Checkpoints",
    "Engine",
    "Guards",
    "Notice",
    "Ranks",
    "TorchEngine",
    "TrainingConfig",
    "TrainingError",
    "TrainingResult",
    "TrainingStoppedError",
    "Validation",
    "Validator",
    "blank_image_for_text",
    "blank_image_inputs",
    "choose_parts",
    "named_parts",
    "parameter_groups",
    "train",
    "weights_digest",
]

_MODULES = {
    "blank_image": ("blank_image_for_text", "blank_image_inputs"),
    "checkpoints.saver": ("Notice",),
    "checkpoints.store": ("Checkpoints", "CheckpointStore"),
    "digest": ("weights_digest",),
    "engine": ("Engine", "TorchEngine"),
    "loop": ("TrainingResult", "train"),
    "micro_batch": ("Batches",),
    "parts": ("choose_parts", "named_parts", "parameter_groups"),
    "ranks": ("Ranks",),
    "validation": ("Validator",),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute may be anything
    # Checking a config must not wait for torch in a process that only starts workers.
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
