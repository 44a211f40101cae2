"""Model folders as the stages pass them on: dense or converted, read and written alike."""

import json
from pathlib import Path

from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin

from workloads import mod
from workloads.models import load_model


def open_model_folder(path: Path) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load the model in ``path``, dense or converted as its ``config.json`` says.

    Raises:
        DataError: If ``path`` holds no model folder.
        ConversionError: If it holds a converted model that this version cannot load.
    """
    if not is_converted_folder(path):
        return load_model(path)
    processor: ProcessorMixin = AutoProcessor.from_pretrained(  # type: ignore[no-untyped-call]
        path, local_files_only=True
    )
    return mod.load_pretrained(path), processor


def save_model_folder(model: PreTrainedModel, processor: ProcessorMixin, path: Path) -> None:
    """Write ``model`` and ``processor`` so that `open_model_folder` gives them back."""
    if mod.is_converted(model):
        mod.save_pretrained(model, path, processor)
    else:
        model.save_pretrained(path)
        processor.save_pretrained(path)


def is_converted_folder(path: Path) -> bool:
    """Whether ``path`` holds a converted model."""
    config = path / "config.json"
    return config.is_file() and "mod" in json.loads(config.read_text())
