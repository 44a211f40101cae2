"""Loading: a model folder to a model and its processor, from local files only."""

from pathlib import Path
from typing import Any, cast

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from workloads.models.locate import ModelError, resolve_model
from workloads.text_processor import TextProcessor


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
    config = _read_config(folder)
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        reason = f"model type {config.model_type!r} is no image-text model; expected one like llava"
        raise ModelError(str(folder), reason)
    return _load_weights(folder, AutoModelForImageTextToText), _load_processor(folder)


def load_decoder(path: str | Path) -> tuple[PreTrainedModel, ProcessorMixin | TextProcessor]:
    """Load any model with a decoder: an image-text one as `load_model` does, or a text-only one.

    Raises:
        ModelError: See `load_model`.
    """
    if reads_images(path):
        return load_model(path)
    folder = resolve_model(path)
    config = _read_config(folder)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        reason = (
            f"model type {config.model_type!r} has no decoder; expected one like llava or llama"
        )
        raise ModelError(str(folder), reason)
    return _load_weights(folder, AutoModelForCausalLM), _load_tokenizer(folder)


def reads_images(path: str | Path) -> bool:
    """Whether a model folder, or an embedded model, is an image-text model.

    Raises:
        ModelError: If its configuration cannot be read.
    """
    return type(_read_config(resolve_model(path))) in AutoModelForImageTextToText._model_mapping


def _read_config(folder: Path) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load(folder, "configuration", error) from error
    if getattr(config, "mod", None) is not None:
        reason = "is converted to Mixture-of-Depths; load it with workloads.mod.load_pretrained"
        raise ModelError(str(folder), reason)
    return config


def _load_weights(folder: Path, auto: Any) -> PreTrainedModel:  # noqa: ANN401 - untyped in transformers
    try:
        loaded: Any = auto.from_pretrained(
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


def _load_tokenizer(folder: Path) -> TextProcessor:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load(folder, "tokenizer", error) from error
    return TextProcessor(tokenizer)


def _cannot_load(folder: Path, part: str, error: Exception) -> ModelError:
    return ModelError(str(folder), f"its {part} cannot be loaded ({error}); restore the folder")
