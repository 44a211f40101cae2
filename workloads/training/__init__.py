from workloads.training.blank_image import blank_image_for_text
from workloads.training.checkpoint import Checkpoints, CheckpointStore
from workloads.training.config import TrainingConfig
from workloads.training.engine import Engine, TorchEngine
from workloads.training.errors import TrainingError
from workloads.training.loop import Batches, TrainingResult, train
from workloads.training.parts import choose_parts, named_parts, parameter_groups
from workloads.training.ranks import Ranks

__all__ = [
    "Batches",
    "CheckpointStore",
    "Checkpoints",
    "Engine",
    "Ranks",
    "TorchEngine",
    "TrainingConfig",
    "TrainingError",
    "TrainingResult",
    "blank_image_for_text",
    "choose_parts",
    "named_parts",
    "parameter_groups",
    "train",
]
