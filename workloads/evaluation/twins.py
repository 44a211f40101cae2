"""Opens a model folder for evaluation, whichever of the two twins it holds."""

import json
from pathlib import Path

from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin

from workloads.evaluation.errors import EvaluationError
from workloads.mod import load_pretrained
from workloads.models import load_model


def load_twin(path: Path) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a dense or a converted model with its processor.

    Args:
        path: A Hugging Face folder, or one that ``workloads.mod.save_pretrained`` wrote.

    Raises:
        EvaluationError: If the folder holds no model.
        ConversionError: If it holds a converted model that cannot be read.
    """
    try:
        config = json.loads((path / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} holds no readable config.json of a model") from error
    if "mod" not in config:
        return load_model(path)
    processor: ProcessorMixin = AutoProcessor.from_pretrained(  # type: ignore[no-untyped-call]
        path, local_files_only=True
    )
    model: PreTrainedModel = load_pretrained(path)
    return model, processor
