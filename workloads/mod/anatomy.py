"""Anatomy of a dense decoder layer, found by running it: nothing is read off a family's name."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workloads.errors import ConversionError
from workloads.mod.foreign import Foreign
from workloads.mod.modes import evaluating

_PROBE_TOKENS = 7  # like no width or number of heads
_HANDLED = ("attention_mask", "position_ids", "position_embeddings")


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What conversion must know of a decoder layer.

    Args:
        norm: Child that normalises the layer's input; None where nothing does (post-norm layers).
        branch: Child whose output is the last tensor before the last residual addition.
        arguments: Names of the positional parameters of ``forward`` after ``hidden_states``.
        per_token: Arguments beside masks and positions that hold something for each token,
            ``(batch, seq, ...)``.
        outputs: How many things the layer returns as a tuple; None if it returns hidden states.
    """

    norm: str | None
    branch: str
    arguments: tuple[str, ...]
    per_token: tuple[str, ...]
    outputs: int | None

    def wrapped(self, hidden_states: Tensor) -> Foreign:
        """Hidden states in the form in which the layer returns them."""
        if self.outputs is None:
            return hidden_states
        return (hidden_states, *(None,) * (self.outputs - 1))


@dataclass(frozen=True, slots=True)
class LayerCall:
    """How a decoder calls one of its layers.

    Args:
        hidden: ``(1, tokens, hidden)``, random.
        arguments: All other arguments by name; ``position_embeddings`` is None in layers without
            positions.
    """

    hidden: Tensor
    arguments: Mapping[str, Any]


def layer_calls(decoder: nn.Module, indices: Iterable[int]) -> dict[int, LayerCall]:
    """Run a dense decoder on a few random tokens and note how it calls its layers.

    Args:
        decoder: The decoder, with its weights in memory.
        indices: Layers to watch.

    Raises:
        ConversionError: If it cannot run, or does not pass keyword arguments on to a layer.
    """
    name = type(decoder).__name__
    weight = next(decoder.parameters())
    if weight.is_meta:
        raise ConversionError(f"{name} holds no weights (meta device): load the model first")
    width: int = decoder.config.hidden_size  # type: ignore[assignment,union-attr]
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, _PROBE_TOKENS, width, generator=generator)
    hidden = hidden.to(weight.device, weight.dtype)
    calls: dict[int, LayerCall] = {}
    layers: Foreign = decoder.layers
    with _noting({index: layers[index] for index in indices}, hidden, calls):
        try:
            with evaluating(decoder), torch.no_grad():
                decoder(inputs_embeds=hidden, use_cache=False, routing_pass=None)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ConversionError(f"{name} cannot run: {error}") from error
    for index in indices:
        if index not in calls or "routing_pass" not in calls[index].arguments:
            raise ConversionError(f"{name} does not hand keyword arguments on to it", index)
    return calls


def find_anatomy(layer: nn.Module, call: LayerCall) -> Anatomy:
    """Probe one dense decoder layer.

    The branch is the child whose output, scaled by 0, leaves the residual stream with nothing but
    attention added to it and, scaled by 0.5, half of what it adds: the MLP in Llama, the norm
    behind the MLP in sandwich-norm families. Where a family scales its branches (Granite), the
    router's weight and the family's factor commute.

    Args:
        layer: The layer, with its weights in memory.
        call: How its decoder calls it.

    Raises:
        ConversionError: If the layer is not of the usual rotary shape; the reason says why.
    """
    name = type(layer).__name__
    probe = _Probe(layer, call)
    branch = probe.branch()
    if branch is None:
        raise ConversionError(
            f"{name}: no child's output is the last tensor before the residual addition, "
            "so the router's weight has no place; this family is not supported"
        )
    return Anatomy(
        norm=probe.input_norm(),
        branch=branch,
        arguments=_positional(type(layer)),
        per_token=_per_token(call),
        outputs=probe.outputs,
    )


@dataclass(frozen=True, slots=True)
class _ChildCall:
    """One call of a child: what it was given, and whether it was told of positions."""

    child: str
    given: Tensor
    is_attention: bool


class _Probe:
    """Runs a layer again and again and notes what goes into its children."""

    def __init__(self, layer: nn.Module, call: LayerCall) -> None:
        self._layer, self._call = layer, call
        self._calls: list[_ChildCall] = []
        self.outputs: int | None = None
        self._whole = self._run({})

    def branch(self) -> str | None:
        """The child whose output a router's weight multiplies."""
        children = list(dict.fromkeys(call.child for call in self._calls))
        for child in reversed(children):
            bare = self._run({child: 0.0})
            if torch.equal(bare, self._whole):
                continue
            others = [other for other in children if other != child]
            if not any(self._is_residual_alone(child, other) for other in others):
                continue
            halved = self._run({child: 0.5})
            if torch.allclose(halved, (bare + self._whole) / 2, atol=1e-2, rtol=1e-2):
                return child
        return None

    def input_norm(self) -> str | None:
        """The child that normalises the layer's input."""
        for call in self._calls:
            if torch.equal(call.given, self._call.hidden) and not call.is_attention:
                return call.child
        return None

    def _is_residual_alone(self, child: str, other: str) -> bool:
        return torch.equal(self._run({child: 0.0, other: 0.0}), self._call.hidden)

    def _run(self, scales: Mapping[str, float]) -> Tensor:
        name = type(self._layer).__name__
        # A converted layer gets none: transformers takes their gaps for packed sequences.
        arguments = dict(self._call.arguments) | {"position_ids": None}
        del arguments["routing_pass"]
        handles = [
            child.register_forward_hook(self._hook(child_name, scales), with_kwargs=True)
            for child_name, child in self._layer.named_children()
        ]
        try:
            with evaluating(self._layer), torch.no_grad():
                output = self._layer(self._call.hidden, **arguments)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ConversionError(f"{name} cannot run: {error}") from error
        finally:
            for handle in handles:
                handle.remove()
        if isinstance(output, tuple):
            self.outputs = len(output)
            if any(_is_per_token(extra) for extra in output[1:]):
                raise ConversionError(f"{name} returns more than hidden states for each token")
        return first_tensor(output)

    def _hook(self, name: str, scales: Mapping[str, float]) -> Callable[..., Any]:
        def note(_: nn.Module, args: Foreign, kwargs: Foreign, output: Foreign) -> Foreign:
            given = args[0] if args else kwargs.get("hidden_states")
            if isinstance(given, Tensor) and not scales:
                self._calls.append(_ChildCall(name, given, "position_embeddings" in kwargs))
            return map_first(output, lambda tensor: tensor * scales.get(name, 1.0))

        return note


def first_tensor(output: Foreign) -> Tensor:
    """The hidden states of a module's output, which may be a tuple."""
    tensor = output[0] if isinstance(output, tuple) else output
    if not isinstance(tensor, Tensor):
        raise ConversionError(f"a layer returned {type(tensor).__name__}, expected hidden states")
    return tensor


def map_first(output: Foreign, change: Callable[[Tensor], Tensor]) -> Foreign:
    """Apply ``change`` to the hidden states of a module's output and leave the rest."""
    if isinstance(output, tuple):
        return (change(output[0]), *output[1:])
    return change(output)


@contextmanager
def _noting(
    layers: Mapping[int, nn.Module], hidden: Tensor, calls: dict[int, LayerCall]
) -> Iterator[None]:
    def hook(index: int) -> Callable[..., None]:
        names = _positional(type(layers[index]))

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else kwargs.pop("hidden_states")
            if given.shape != hidden.shape:
                reason = f"it takes {tuple(given.shape)}, expected hidden states {hidden.shape}"
                raise ConversionError(reason, index)
            calls[index] = LayerCall(hidden, dict(zip(names, args[1:], strict=False)) | kwargs)

        return note

    handles = [
        layer.register_forward_pre_hook(hook(index), with_kwargs=True)
        for index, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_call(call: LayerCall) -> None:
    """Refuse a layer whose arguments cannot be those of some of the tokens.

    Raises:
        ConversionError: With the reason.
    """
    if "position_embeddings" not in call.arguments:
        raise ConversionError("it gets no rotary tables, only rotary decoder layers can route")
    tables = call.arguments["position_embeddings"]
    tables = (tables,) if isinstance(tables, Tensor) else tables or ()
    if any(table.shape[-2] != _PROBE_TOKENS for table in tables):
        shapes = [tuple(table.shape) for table in tables]
        raise ConversionError(f"its rotary tables {shapes} are not (..., seq, width)")
    if call.arguments.get("shared_kv_states"):
        raise ConversionError("it shares keys and values with other layers")


def _per_token(call: LayerCall) -> tuple[str, ...]:
    others = {key: value for key, value in call.arguments.items() if key not in _HANDLED}
    return tuple(key for key, value in others.items() if _is_per_token(value))


def _is_per_token(value: Foreign) -> bool:
    return isinstance(value, Tensor) and value.dim() > 1 and value.shape[1] == _PROBE_TOKENS


def _positional(layer_class: type[nn.Module]) -> tuple[str, ...]:
    """Names of the positional parameters of ``forward`` after ``self`` and ``hidden_states``."""
    parameters = inspect.signature(layer_class.forward).parameters
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return tuple(key for key, value in parameters.items() if value.kind is positional)[2:]
