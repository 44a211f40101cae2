"""Attention ranks of a running model, taken at transformers' attention interface.

There queries and keys are final (after rotary embedding and query/key norm), and the layer
hands over its own mask, scale and softcap, whichever attention kernel it would use. A thread
forms one head's map at a time, in the place of the one before, inside the layer's own call.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from workloads.arank.errors import ARankError
from workloads.arank.rank import CausalPart, RankOptions, causal_rank, check_length, product_ranks
from workloads.arank.threads import on_all_threads
from workloads.arank.workspace import Workspaces
from workloads.kinds import TokenKind
from workloads.mod import is_converted

_NOT_FOR_DENSE_MODELS = ("labels", "token_kinds")
_NOT_TEXT = (TokenKind.PAD, TokenKind.IMAGE)


class _AllMeasuredError(Exception):
    """Leaves the forward pass: what follows the last layer's map would be thrown away."""


@dataclass(frozen=True, slots=True)
class AttentionInputs:
    """What one layer's attention is about to be computed from."""

    query: Tensor
    """``(batch, heads, seq, head_dim)``."""
    key: Tensor
    """``(batch, key_heads, seq, head_dim)``; ``heads`` is a multiple of ``key_heads``."""
    mask: Tensor | None
    """``(batch, 1 or heads, seq, seq)``: bool (True may be attended) or added to the logits."""
    scale: float
    softcap: float | None


AttentionListener = Callable[[int, AttentionInputs], None]
"""Called with every decoder layer's index and inputs, before its attention is computed."""


@torch.no_grad()
def arank_samples(
    model: PreTrainedModel, batch: Mapping[str, Any], options: RankOptions | None = None
) -> Tensor:
    """Rank of every head's attention map for every sample of a batch.

    Each row is measured over its real tokens only, so neither the side nor the amount of
    padding enters the map or its tolerance. Maps are formed in float32 whatever the dtype of
    the model. The model's training flags and attention implementation are put back, also
    after an error.

    Args:
        model: A dense causal language model or image-text model.
        batch: Model inputs; ``attention_mask`` ``(batch, seq)`` marks the real tokens.
            ``token_kinds`` ``(batch, seq)`` are needed for a block of the map only. Entries
            that are no tensors and ``labels`` are left out.
        options: What counts as rank.

    Returns:
        Ranks ``(batch, layers, heads)``, int64, on the CPU.

    Raises:
        ARankError: If a row has fewer than two tokens or none of a kind that was asked for, a
            map is not finite, a layer's attention cannot be observed, or the model is
            converted already.
    """
    if is_converted(model):
        raise ARankError("ranks are those of the dense model: measure before converting, or revert")
    options = options or RankOptions()
    inputs = {
        name: value
        for name, value in batch.items()
        if isinstance(value, Tensor) and name not in _NOT_FOR_DENSE_MODELS
    }
    real = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    places = _places_of(batch, real, options)
    layers = len(_decoder_layers(model))
    spaces = Workspaces()
    measured: dict[int, Tensor] = {}

    def measure(layer_index: int, attention: AttentionInputs) -> None:
        if layer_index in measured:
            raise ARankError("it attends more than once, so it has no single map", layer_index)
        measured[layer_index] = _layer_ranks(layer_index, attention, places, options, spaces)
        if len(measured) == layers:
            raise _AllMeasuredError

    with (
        _evaluating(model),
        attention_observed(model, measure),
        suppress(_AllMeasuredError),
    ):
        model(**inputs, **_cheapest_outputs(model))
    for index in range(layers):
        if index not in measured:
            kind = type(_decoder_layers(model)[index]).__name__
            raise ARankError(
                f"{kind} has no softmax attention that runs through transformers' attention "
                "interface; ranks can only be measured for families that use it",
                index,
            )
    return torch.stack([measured[index] for index in range(layers)], dim=1)


@contextmanager
def attention_observed(model: PreTrainedModel, listener: AttentionListener) -> Iterator[None]:
    """Let ``listener`` see the inputs of every decoder layer's attention.

    The decoder runs under an attention implementation of its own for the time being, which
    asks for the family's full mask (image blocks, prefixes and sliding windows included) and
    then computes with sdpa, or with the family's eager form where sdpa cannot (softcap).
    """
    layers = _decoder_layers(model)
    owners = {module: index for index, layer in enumerate(layers) for module in layer.modules()}
    configs = _attention_configs(model)
    before = [config._attn_implementation for config in configs]
    observer = _Observer(owners, listener, prefers_eager="eager" in before)
    name = f"arank_observer_{id(observer)}"
    AttentionInterface.register(name, observer)
    AttentionMaskInterface.register(name, _full_mask)
    try:
        for config in configs:  # not by the property, which would also set nested configs
            config._attn_implementation_internal = name
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation_internal = implementation
        AttentionInterface._global_mapping.pop(name)
        AttentionMaskInterface._global_mapping.pop(name)


class _Observer:
    """An attention function for transformers: tells the listener, then attends as before."""

    def __init__(
        self, owners: Mapping[nn.Module, int], listener: AttentionListener, *, prefers_eager: bool
    ) -> None:
        self._owners, self._listener, self._prefers_eager = owners, listener, prefers_eager

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *,
        scaling: float | None = None,
        softcap: float | None = None,
        **others: Any,  # noqa: ANN401 - whatever a family passes on
    ) -> tuple[Tensor, Tensor | None]:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        layer_index = self._owners.get(module)
        if layer_index is not None:
            _check_plain_softmax(layer_index, module, others)
            seen = _implied_mask(module, query) if attention_mask is None else attention_mask
            self._listener(layer_index, AttentionInputs(query, key, seen, scale, softcap))
        if softcap is None and not self._prefers_eager:
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, scaling=scale, **others
            )
        if softcap is not None:
            others["softcap"] = softcap
        mask = None if attention_mask is None else _additive(attention_mask, query.dtype)
        return _eager_form(module)(module, query, key, value, mask, scaling=scale, **others)


@dataclass(frozen=True, slots=True)
class _Places:
    """Which positions of one row are measured."""

    tokens: Tensor
    """Positions of the real tokens, which the softmax is over."""
    rows: Tensor
    """Queries of the block, as indices of ``tokens``."""
    columns: Tensor
    """Keys of the block, as indices of ``tokens``."""
    part: CausalPart
    """Which entries of the block count."""

    @classmethod
    def of(cls, tokens: Tensor, rows: Tensor, columns: Tensor, options: RankOptions) -> "_Places":
        return cls(tokens, rows, columns, CausalPart.of(rows, columns, options))


def _places_of(batch: Mapping[str, Any], real: Tensor, options: RankOptions) -> list[_Places]:
    """The block that ``options`` ask for, in every row of a batch."""
    if options.block == "all":
        rows = [row.nonzero().squeeze(1) for row in real]
        alls = [torch.arange(len(tokens), device=tokens.device) for tokens in rows]
        return [
            _Places.of(tokens, every, every, options)
            for tokens, every in zip(rows, alls, strict=True)
        ]
    if "token_kinds" not in batch:
        raise ARankError(f"block {options.block!r} needs token_kinds in the batch")
    return [
        _block_of(sample, row, kinds, options)
        for sample, (row, kinds) in enumerate(zip(real, batch["token_kinds"], strict=True))
    ]


def _block_of(sample: int, real: Tensor, kinds: Tensor, options: RankOptions) -> _Places:
    tokens = real.nonzero().squeeze(1)
    kinds = kinds.to(tokens.device)[tokens]
    image = (kinds == TokenKind.IMAGE).nonzero().squeeze(1)
    text = torch.stack([kinds != kind for kind in _NOT_TEXT]).all(0).nonzero().squeeze(1)
    queries = image if options.block == "image-image" else text
    if len(image) < 2 or not len(queries):
        raise ARankError(
            f"sample {sample} of the batch: block {options.block!r} needs at least two image "
            f"tokens and one query, got {len(image)} and {len(queries)}"
        )
    return _Places.of(tokens, queries, image, options)


def _layer_ranks(
    layer_index: int,
    attention: AttentionInputs,
    places: list[_Places],
    options: RankOptions,
    spaces: Workspaces,
) -> Tensor:
    """Ranks ``(batch, heads)`` of one layer; a thread forms one head's map at a time."""
    batch, heads, seq, _ = attention.query.shape
    if batch != len(places) or attention.key.shape[2] != seq:
        raise ARankError(
            f"{batch} x {seq} queries meet {attention.key.shape[2]} keys where the batch has "
            f"{len(places)} rows; self-attention over the input's tokens is expected",
            layer_index,
        )
    ranks = []
    for row, where in enumerate(places):
        mask = None if options.map == "logits" else _row_mask(attention.mask, row, where)
        head_rank = partial(_head_rank, attention, row, where, mask, options, spaces)
        try:
            ranks.append(on_all_threads(head_rank, range(heads)))
        except ARankError as error:
            raise ARankError(f"sample {row} of the batch: {error.reason}", layer_index) from None
    return torch.tensor(ranks, dtype=torch.int64)


def _row_mask(mask: Tensor | None, row: int, where: _Places) -> Tensor | None:
    """Of one row ``(1 or heads, rows, tokens)``: bool, True is hidden, or added to the logits."""
    if mask is None:
        return None
    whole = mask[row if mask.shape[0] > 1 else 0]
    queried = where.tokens[where.rows]
    if len(queried) < whole.shape[-1]:
        whole = whole[:, queried[:, None], where.tokens]
    return ~whole if whole.dtype == torch.bool else whole


def _head_rank(
    attention: AttentionInputs,
    row: int,
    where: _Places,
    mask: Tensor | None,
    options: RankOptions,
    spaces: Workspaces,
    head: int,
) -> int:
    """Rank of one head, over the row's real tokens."""
    tokens = where.tokens
    query = attention.query[row, head][tokens[where.rows]].float()
    group = attention.query.shape[1] // attention.key.shape[1]
    key = attention.key[row, head // group][tokens].float()
    if options.map == "logits":
        return int(product_ranks(query, key[where.columns], options))
    if options.block == "all":
        check_length(len(tokens))
    with spaces.one() as space:
        place = space.tensor("map", (len(query), len(key)), torch.float32, query.device)
        logits = torch.mm(query, key.T, out=place).mul_(attention.scale)
        if attention.softcap is not None:
            logits.div_(attention.softcap).tanh_().mul_(attention.softcap)
        if mask is not None:
            _hide(logits, mask[head if len(mask) > 1 else 0])
        block = torch.softmax(logits, -1, out=logits)
        if options.block != "all":
            block = block[:, where.columns]
        return causal_rank(block.cpu(), where.part, options, space)


def _hide(logits: Tensor, mask: Tensor) -> None:
    if mask.dtype == torch.bool:
        logits.masked_fill_(mask, torch.finfo(logits.dtype).min)
    else:
        logits += mask


def _implied_mask(module: nn.Module, query: Tensor) -> Tensor | None:
    """What a family that hands over no mask leaves to the kernel's causal flag."""
    if not getattr(module, "is_causal", False):
        return None
    seq = query.shape[2]
    return torch.ones(1, 1, seq, seq, dtype=torch.bool, device=query.device).tril()


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
        ~mask, torch.finfo(dtype).min
    )


def _full_mask(**arguments: Any) -> Tensor | None:  # noqa: ANN401 - transformers' own
    """The family's bool mask ``(batch, 1, seq, seq)``, never left out as 'just causal'."""
    skipping = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return sdpa_mask(**{**arguments, **skipping})


def _eager_form(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    form = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if form is None:
        raise ARankError(f"{type(module).__name__} has no eager form to compute its softcap with")
    return form  # type: ignore[no-any-return]


def _check_plain_softmax(layer_index: int, module: nn.Module, others: Mapping[str, Any]) -> None:
    """Refuse what would make the map we form differ from the layer's own."""
    extras = {
        "attention sinks": others.get("s_aux", getattr(module, "sinks", None)),
        "a position bias": others.get("position_bias"),
    }
    for name, value in extras.items():
        if value is not None:
            reason = f"{type(module).__name__} uses {name}, which ARank does not measure"
            raise ARankError(reason, layer_index)


def _decoder(model: PreTrainedModel) -> nn.Module:
    decoder: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
    return decoder


def _decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    layers = getattr(_decoder(model), "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        raise ARankError(f"{type(model).__name__} has no decoder with a list of layers")
    return layers


def _attention_configs(model: PreTrainedModel) -> list[Any]:
    """The distinct config objects that the decoder and its layers dispatch attention by."""
    found = {id(m.config): m.config for m in _decoder(model).modules() if hasattr(m, "config")}
    return [config for config in found.values() if hasattr(config, "_attn_implementation")]


def _cheapest_outputs(model: PreTrainedModel) -> dict[str, Any]:
    """No cache, and logits of one token only: a full vocabulary row per token is memory."""
    takes_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
    return {"use_cache": False, **({"logits_to_keep": 1} if takes_logits else {})}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
