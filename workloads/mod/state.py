"""Converted models on disk: a Hugging Face folder that says what it is."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import AutoConfig

from workloads.errors import ConversionError
from workloads.mod.config import MoDConfig
from workloads.mod.convert import activate, attach_routers, check, mod_config
from workloads.mod.foreign import Foreign


def save_pretrained(model: nn.Module, path: str | Path, processor: Foreign = None) -> None:
    """Write a converted model as a Hugging Face folder with safetensors.

    Dense parameters keep their names, routers are added, ``config.json`` carries the MoD
    configuration under ``mod``. transformers' own ``from_pretrained`` refuses the folder and
    names :func:`load_pretrained`.

    Args:
        model: A converted model.
        path: Folder to write; files of the same name in it are replaced.
        processor: Saved beside the model if given.

    Raises:
        ConversionError: If ``model`` is dense.
    """
    mod_config(model)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        model.save_pretrained(aside)  # type: ignore[operator]
        if processor is not None:
            processor.save_pretrained(aside)
        path.mkdir(exist_ok=True)
        # The configuration comes last: without it the folder is no model yet.
        for file in sorted(aside.iterdir(), key=lambda file: file.name == "config.json"):
            file.replace(path / file.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def load_pretrained(
    path: str | Path,
    *,
    dtype: Foreign = "auto",
    device_map: Foreign = None,
    attn_implementation: str | None = None,
    as_dense: bool = False,
) -> Foreign:
    """Read a folder that :func:`save_pretrained` wrote; the same logits in a fresh process.

    Args:
        path: The folder.
        dtype: As in transformers; ``"auto"`` for the saved one.
        device_map: As in transformers.
        attn_implementation: ``sdpa``, ``eager``, ``flash_attention_2`` or ``flex_attention``; None
            for the default.
        as_dense: Leave the routers out and return the dense model with the same weights.

    Returns:
        The model, in eval mode.

    Raises:
        ConversionError: If the folder holds no converted model, weights do not fit it, or the
            attention implementation is not the one asked for.
    """
    path = Path(path)
    config, mod = _read_config(path)
    dense_class = _model_class(config, path)
    loader = _dense_loader(dense_class) if as_dense else _mod_loader(dense_class, mod)
    options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    model, info = loader.from_pretrained(
        path,
        config=config,
        dtype=dtype,
        device_map=device_map,
        output_loading_info=True,
        local_files_only=True,
        **options,
    )
    _check_loaded(info, path)
    _check_attention(model, attn_implementation)
    model.__class__ = dense_class
    if not as_dense:
        activate(model, mod, check(model, mod))
    return model


def _read_config(path: Path) -> tuple[Any, MoDConfig]:
    if not (path / "config.json").is_file():
        raise ConversionError(f"{path} holds no config.json: give the folder of a saved model")
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    values = getattr(config, "mod", None)
    if values is None:
        raise ConversionError(f"{path} holds a dense model: use its class's from_pretrained")
    for name in ("mod", "transformers_weights"):
        if hasattr(config, name):
            delattr(config, name)
    try:
        return config, MoDConfig.from_json(values)
    except ValueError as error:
        raise ConversionError(f"{path / 'config.json'}: {error}") from error


def _model_class(config: Foreign, path: Path) -> Foreign:
    names = config.architectures or []
    model_class = getattr(transformers, names[0], None) if names else None
    if model_class is None:
        raise ConversionError(f"{path}: architectures must name a transformers class, got {names}")
    return model_class


def _mod_loader(dense_class: Foreign, mod: MoDConfig) -> Foreign:
    """The dense class with routers in it, so that transformers loads and places them itself."""

    def build(self: Foreign, config: Foreign, *args: Foreign, **kwargs: Foreign) -> None:
        dense_class.__init__(self, config, *args, **kwargs)
        attach_routers(self, mod)

    return _named_like(dense_class, {"__init__": build})


def _dense_loader(dense_class: Foreign) -> Foreign:
    return _named_like(dense_class, {"_keys_to_ignore_on_load_unexpected": [r"mod_router\."]})


def _named_like(dense_class: Foreign, members: dict[str, Any]) -> Foreign:
    members |= {"__module__": dense_class.__module__, "__qualname__": dense_class.__qualname__}
    return type(dense_class.__name__, (dense_class,), members)


def _check_loaded(info: dict[str, Any], path: Path) -> None:
    faults = {name: info.get(name) for name in ("missing_keys", "mismatched_keys", "error_msgs")}
    faults = {name: sorted(map(str, value)) for name, value in faults.items() if value}
    if faults:
        raise ConversionError(f"the weights in {path} do not fit its config.json: {faults}")


def _check_attention(model: Foreign, asked: str | None) -> None:
    resolved = model.get_decoder().config._attn_implementation
    if asked is not None and resolved != asked:
        raise ConversionError(
            f"attn_implementation={asked!r} was asked for, {resolved!r} is what is installed here"
        )
