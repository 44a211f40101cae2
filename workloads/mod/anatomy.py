"""Anatomy of a dense decoder layer, found by running it: nothing is read off a family's name."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workloads.errors import ConversionError
from workloads.mod.foreign import Foreign
from workloads.mod.modes import evaluating

_PROBE_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What conversion must know of a decoder layer.

    Args:
        norm: Child that normalises the layer's input.
        branch: Child whose output is the last tensor before the last residual addition.
        arguments: Names of the positional parameters of ``forward`` after ``hidden_states``.
    """

    norm: str
    branch: str
    arguments: tuple[str, ...]


def find_anatomy(layer: nn.Module, rotary: Callable[..., Any], hidden_size: int) -> Anatomy:
    """Probe one dense decoder layer.

    The branch is the child whose output, scaled by 0, leaves exactly the attention residual
    and, scaled by 0.5, half of what was added to it: the MLP in Llama, the norm behind the MLP
    in sandwich-norm families.

    Args:
        layer: The layer, with its weights in memory.
        rotary: The decoder's rotary embedding, ``(hidden, position_ids) -> (cos, sin)``.
        hidden_size: Width of the hidden states.

    Raises:
        ConversionError: If the layer is not of the usual rotary shape; the reason says why.
    """
    name = type(layer).__name__
    arguments = _arguments(layer, name)
    weight = next(layer.parameters())
    if weight.is_meta:
        raise ConversionError(f"{name} holds no weights (meta device): load the model first")
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, _PROBE_TOKENS, hidden_size, generator=generator)
    probe = _Probe(layer, hidden.to(weight.device, weight.dtype), rotary)
    whole = probe.run()
    norm = next((name for name, given, _ in probe.calls if torch.equal(given, probe.hidden)), None)
    if norm is None:
        raise ConversionError(f"{name} has no child that takes the layer's input as it is")
    residuals = [probe.hidden + output for _, _, output in probe.calls]
    for child, _, added in reversed(probe.calls):
        bare = probe.run(scale=(child, 0.0))
        if not any(torch.equal(bare, residual) for residual in residuals):
            continue
        if torch.allclose(probe.run(scale=(child, 0.5)), bare + 0.5 * added, atol=1e-2, rtol=1e-2):
            if torch.equal(bare, whole):
                raise ConversionError(f"{name}.{child} adds nothing to its residual")
            return Anatomy(norm=norm, branch=child, arguments=arguments)
    raise ConversionError(
        f"{name}: no child's output is the last tensor before the residual addition, "
        "so the router's weight has no place; this family is not supported"
    )


class _Probe:
    """Runs a layer on a few random tokens and notes what goes in and out of its children."""

    def __init__(self, layer: nn.Module, hidden: Tensor, rotary: Callable[..., Any]) -> None:
        self.layer, self.hidden = layer, hidden
        positions = torch.arange(_PROBE_TOKENS, device=hidden.device).unsqueeze(0)
        try:
            self.position_embeddings = rotary(hidden, positions)
        except (TypeError, RuntimeError) as error:
            raise ConversionError(f"{type(rotary).__name__} is not usual: {error}") from error
        self.calls: list[tuple[str, Tensor, Tensor]] = []

    def run(self, scale: tuple[str, float] | None = None) -> Tensor:
        self.calls = [] if scale is None else self.calls
        handles = [
            child.register_forward_hook(self._hook(name, scale), with_kwargs=True)
            for name, child in self.layer.named_children()
        ]
        try:
            with evaluating(self.layer), torch.no_grad():
                output = self.layer(
                    self.hidden,
                    attention_mask=None,
                    position_embeddings=self.position_embeddings,
                )
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ConversionError(f"{type(self.layer).__name__} cannot run: {error}") from error
        finally:
            for handle in handles:
                handle.remove()
        return first_tensor(output)

    def _hook(self, name: str, scale: tuple[str, float] | None) -> Callable[..., Any]:
        def note(_: nn.Module, args: Foreign, kwargs: Foreign, output: Foreign) -> Foreign:
            given = args[0] if args else kwargs.get("hidden_states")
            if scale is None and isinstance(given, Tensor):
                self.calls.append((name, given, first_tensor(output)))
            if scale is not None and scale[0] == name:
                return map_first(output, lambda tensor: tensor * scale[1])
            return None

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


def _arguments(layer: nn.Module, name: str) -> tuple[str, ...]:
    parameters = inspect.signature(type(layer).forward).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    missing = {"hidden_states", "attention_mask", "position_embeddings"} - parameters.keys()
    if missing or not takes_any:
        reason = f"takes no {', '.join(sorted(missing))}" if missing else "takes no **kwargs"
        raise ConversionError(f"{name}.forward {reason}; only rotary decoder layers are supported")
    if list(parameters)[1] != "hidden_states":
        raise ConversionError(f"{name}.forward does not take hidden_states first")
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return tuple(key for key, value in parameters.items() if value.kind is positional)[2:]
