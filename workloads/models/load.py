"""Loading: a model folder to a model and its processor, from local files only."""

from pathlib import Path
from typing import Any, cast

from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
)

from workloads.models.locate import ModelError, resolve_model


def load_model(path: str | Path) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a dense Hugging Face image-text model and its processor, in evaluation mode.

    Args:
        path: A local model folder, or an embedded model's name.

    Returns:
        The model with weights in the dtype they were saved in, and the processor.

    Raises:
        ModelError: If the folder is not an image-text model's, was converted to Mixture-of-Depths,
            lacks weights or a processor, or a file in it is damaged.
    """
    folder = resolve_model(path)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load(folder, "configuration", error) from error
    if getattr(config, "mod", None) is not None:
        reason = "is converted to Mixture-of-Depths; load it with workloads.mod.load_pretrained"
        raise ModelError(str(folder), reason)
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        reason = f"model type {config.model_type!r} is no image-text model; expected one like llava"
        raise ModelError(str(folder), reason)
    return _load_weights(folder), _load_processor(folder)


def _load_weights(folder: Path) -> PreTrainedModel:
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype="auto", local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # safetensors and transformers raise bare and private types
        raise _cannot_load(folder, "weights", error) from error
    model, report = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    wrong = {kind: sorted(names) for kind, names in report.items() if names}
    if wrong:
        raise ModelError(str(folder), f"its weights do not fit its config.json: {wrong}")
    model.train(mode=False)
    return model


def _load_processor(folder: Path) -> ProcessorMixin:
    try:
        processor: object = AutoProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load(folder, "processor", error) from error
    if not isinstance(processor, ProcessorMixin):
        reason = (
            f"has no processor, only a {type(processor).__name__}; "
            "save the model's processor into the folder"
        )
        raise ModelError(str(folder), reason)
    return processor


def _cannot_load(folder: Path, part: str, error: Exception) -> ModelError:
    return ModelError(str(folder), f"its {part} cannot be loaded ({error}); restore the folder")
