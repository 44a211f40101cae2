"""Dense model to Mixture-of-Depths and back, in place; all checks before the first change."""

from typing import Any, TypeVar

from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from workloads.errors import ConversionError
from workloads.kinds import TokenKind
from workloads.mod.anatomy import Anatomy, check_call, find_anatomy, layer_calls
from workloads.mod.config import MoDConfig
from workloads.mod.decoder import DecoderState, MoDDecoder
from workloads.mod.foreign import Foreign
from workloads.mod.forward import MoDModel, image_token_id, model_members
from workloads.mod.layer import LayerSlot, MoDLayer
from workloads.mod.scorers import scorer_class

Model = TypeVar("Model", bound=nn.Module)

_CLASSES: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}

_ATTENTION = ("sdpa", "eager", "flash_attention_2", "flex_attention")


def convert(model: Model, config: MoDConfig) -> Model:
    """Turn a dense Hugging Face model into a Mixture-of-Depths one.

    Args:
        model: A model with a language-model head whose decoder layers are rotary decoder
            layers, with its weights in memory.
        config: Which layers, how many tokens, how scored.

    Returns:
        The same object: its parameters keep their names and values, routers are added.

    Raises:
        ConversionError: If the model is converted already, or cannot be; it is unchanged.
    """
    anatomies = check(model, config)
    attach_routers(model, config)
    activate(model, config, anatomies)
    return model


def revert(model: Model) -> Model:
    """Turn a converted model back into the dense one it came from: same classes, same weights.

    Args:
        model: A converted model.

    Returns:
        The same object, without routers.

    Raises:
        ConversionError: If it is not converted.
    """
    config = mod_config(model)
    decoder = _decoder(model)
    for index in config.layers:
        layer = _layers(decoder)[index]
        _swap_back(layer)
        del layer.mod_router, layer.mod_slot
    _swap_back(decoder)
    del decoder.mod_router, decoder.mod_state
    _swap_back(model)
    del _config(model).mod
    return model


def is_converted(model: nn.Module) -> bool:
    """Whether ``model`` is a Mixture-of-Depths model."""
    return isinstance(model, MoDModel)


def mod_config(model: nn.Module) -> MoDConfig:
    """The configuration of a converted model.

    Raises:
        ConversionError: If ``model`` is dense.
    """
    if not isinstance(model, MoDModel):
        raise ConversionError(f"{type(model).__name__} is dense: call convert(model, config) first")
    return model.mod_config


def set_config(model: nn.Module, config: MoDConfig) -> None:
    """Replace the configuration of a converted model, where its routers stay what they are."""
    _decoder(model).mod_state.config = config
    _config(model).mod = config.to_json()


def check(model: nn.Module, config: MoDConfig) -> dict[int, Anatomy]:
    """Everything that can stop a conversion; changes nothing.

    Returns:
        The anatomy of each layer to convert.

    Raises:
        ConversionError: With the reason.
    """
    if is_converted(model):
        raise ConversionError("it is converted already: revert(model) first")
    decoder = _decoder(model)
    layers = _layers(decoder)
    beyond = [index for index in config.layers if index >= len(layers)]
    if beyond:
        raise ConversionError(f"layers must be in 0..{len(layers) - 1}, got {beyond}")
    scorer_class(config)
    _check_attention(decoder)
    _check_images(model, config)
    return _anatomies(decoder, config)


def attach_routers(model: nn.Module, config: MoDConfig) -> None:
    """Register new routers: one on the decoder if it is shared, else one on each layer."""
    decoder = _decoder(model)
    width = decoder.config.hidden_size
    like = next(_layers(decoder)[0].parameters())
    decoder.mod_router = _router(width, config, like) if config.shared_router else None
    for index in config.layers:
        layer = _layers(decoder)[index]
        like = next(layer.parameters())
        layer.mod_router = None if config.shared_router else _router(width, config, like)


def activate(model: nn.Module, config: MoDConfig, anatomies: dict[int, Anatomy]) -> None:
    """Change the classes of a checked model that has its routers."""
    decoder = _decoder(model)
    for slot, index in enumerate(config.layers):
        layer = _layers(decoder)[index]
        layer.mod_slot = LayerSlot(slot, index, anatomies[index])
        layer.__class__ = _mod_class(MoDLayer, type(layer))
    decoder.mod_state = DecoderState(config, _is_plain_causal(decoder.config))
    decoder.__class__ = _mod_class(MoDDecoder, type(decoder))
    model.__class__ = _mod_class(MoDModel, type(model))
    _config(model).mod = config.to_json()


def _anatomies(decoder: Foreign, config: MoDConfig) -> dict[int, Anatomy]:
    _check_caches(decoder, config)
    calls = layer_calls(decoder, config.layers)
    found: dict[tuple[Any, ...], Anatomy] = {}
    anatomies = {}
    for index in config.layers:
        layer = _layers(decoder)[index]
        shape = (type(layer), *(type(child) for child in layer.children()))
        try:
            check_call(calls[index])
            if shape not in found:
                found[shape] = find_anatomy(layer, calls[index])
        except ConversionError as error:
            raise ConversionError(error.reason, index) from error
        anatomies[index] = found[shape]
    return anatomies


def _check_caches(decoder: Foreign, config: MoDConfig) -> None:
    """Refuse layers that keep something else than the keys and values of all tokens."""
    layer_types = getattr(decoder.config, "layer_types", None)
    caches = DynamicCache(config=decoder.config).layers
    for index in config.layers:
        if layer_types is not None and layer_types[index] != "full_attention":
            kind = f"a {layer_types[index]} layer"
        elif index < len(caches) and type(caches[index]) is not DynamicLayer:
            kind = f"a layer with a {type(caches[index]).__name__}"
        else:
            continue
        raise ConversionError(f"it is {kind}, only full_attention layers can route", index)


def _decoder(model: Foreign) -> Foreign:
    name = type(model).__name__
    if not hasattr(model, "get_decoder") or not hasattr(model, "config"):
        raise ConversionError(f"{name} is not a transformers model: it has no get_decoder()")
    decoder = model.get_decoder()
    if decoder is model:
        raise ConversionError(f"{name} is a bare decoder: pass the model with its head")
    if not hasattr(decoder, "layers"):
        raise ConversionError(
            f"the decoder {type(decoder).__name__} has no .layers; this family is not supported"
        )
    return decoder


def _config(model: Foreign) -> Foreign:
    return model.config


def _layers(decoder: Foreign) -> Foreign:
    return decoder.layers


def _check_attention(decoder: Foreign) -> None:
    attention = decoder.config._attn_implementation
    if attention not in _ATTENTION:
        raise ConversionError(
            f"attn_implementation must be one of {', '.join(_ATTENTION)}, got {attention!r}"
        )
    if attention == "flash_attention_2" and not _is_plain_causal(decoder.config):
        raise ConversionError(
            "flash_attention_2 cannot express this family's masks at kept tokens, use 'sdpa'"
        )


def _check_images(model: Foreign, config: MoDConfig) -> None:
    kinds = {*config.routable, *(config.inference_routable or ())}
    if kinds == {TokenKind.IMAGE.name.lower()} and image_token_id(model.config) is None:
        raise ConversionError(
            f"routable is only 'image', but {type(model).__name__} has no image token: "
            "choose other kinds"
        )


def _is_plain_causal(config: Foreign) -> bool:
    """Whether the decoder's own mask hides the future and padding, and nothing else."""
    layer_types = getattr(config, "layer_types", None) or ["full_attention"]
    return (
        set(layer_types) == {"full_attention"}
        and getattr(config, "sliding_window", None) is None
        and getattr(config, "attention_chunk_size", None) is None
        and getattr(config, "is_causal", True) is not False
    )


def _router(width: int, config: MoDConfig, like: Tensor) -> nn.Module:
    return scorer_class(config)(width, config).to(device=like.device, dtype=like.dtype)


def _mod_class(mixin: type[nn.Module], dense_class: type[nn.Module]) -> type[nn.Module]:
    """A subclass of both that looks like the dense class to everything that goes by its name."""
    key = (mixin, dense_class)
    if key not in _CLASSES:
        namespace: dict[str, Any] = {
            "__module__": dense_class.__module__,
            "__qualname__": dense_class.__qualname__,
            "__doc__": dense_class.__doc__,
            "dense_class": dense_class,
        }
        if mixin is MoDModel:
            namespace |= model_members(dense_class)
        _CLASSES[key] = type(dense_class.__name__, (mixin, dense_class), namespace)
    return _CLASSES[key]


def _swap_back(module: Foreign) -> None:
    module.__class__ = type(module).dense_class
