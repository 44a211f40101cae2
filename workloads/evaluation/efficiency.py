"""What a prefill costs: by closed form, and counted from what the model really does.

The closed form is that of the gamma-MoD paper's TFLOPs columns (``cal_flops.py`` of the
release): attention and MLP of the decoder layers, full and not causal attention, without
vision encoder, projector and ``lm_head``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedConfig, PreTrainedModel

TERA = 1e12


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderShape:
    """The sizes that a decoder's cost depends on."""

    layers: int
    hidden: int
    """The paper's h."""
    intermediate: int
    """The paper's i."""
    query_width: int
    """Query heads times head dimension; h in the paper's formula."""
    key_width: int
    """Key heads times head dimension: less than ``query_width`` with grouped queries."""
    value_bytes: int
    """Bytes of one cached number."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> "DecoderShape":
        """The shape of a model's decoder, as its configuration states it."""
        return cls.from_config(model.config, value_bytes=model.dtype.itemsize)

    @classmethod
    def from_config(cls, whole: PreTrainedConfig, *, value_bytes: int) -> "DecoderShape":
        """The shape that the configuration of a whole model states of its decoder."""
        config = whole.get_text_config(decoder=True)
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        key_heads = getattr(config, "num_key_value_heads", None) or heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            query_width=heads * head_dim,
            key_width=key_heads * head_dim,
            value_bytes=value_bytes,
        )


def layer_flops(
    tokens: int,
    hidden: int,
    intermediate: int,
    *,
    query_width: int | None = None,
    key_width: int | None = None,
) -> int:
    """Floating-point operations of one decoder layer: ``8sh² + 4s²h + 6shi``.

    Args:
        tokens: Tokens that the layer computes, s.
        hidden: Width of the hidden states, h.
        intermediate: Width of the gated MLP, i.
        query_width: Width of the queries, if it is not ``hidden``.
        key_width: Width of keys and of values, if it is not ``query_width``. The four
            projections then cost ``4sh (query_width + key_width)`` in place of ``8sh²``.

    Returns:
        Operations, a multiplication and an addition counting as two.
    """
    queries = query_width or hidden
    projections = 4 * tokens * hidden * (queries + (key_width or queries))
    return projections + 4 * tokens**2 * queries + 6 * tokens * hidden * intermediate


def decoder_flops(kept: Sequence[int], shape: DecoderShape) -> int:
    """Operations of a decoder whose layers compute ``kept`` tokens each, by closed form.

    Raises:
        ValueError: If there is not one count per layer.
    """
    _check_layers(kept, shape)
    widths = {"query_width": shape.query_width, "key_width": shape.key_width}
    return sum(layer_flops(n, shape.hidden, shape.intermediate, **widths) for n in kept)


def kv_cache_bytes(kept: Sequence[int], shape: DecoderShape) -> int:
    """Bytes of keys and values when each layer caches the ``kept`` tokens it computed.

    Raises:
        ValueError: If there is not one count per layer.
    """
    _check_layers(kept, shape)
    return sum(kept) * 2 * shape.key_width * shape.value_bytes


def kept_tokens(tokens: int, layers: int, skip_all: Mapping[int, float]) -> tuple[int, ...]:
    """Tokens each layer computes of ``tokens``, rounded down as in the paper's tables.

    Args:
        tokens: Length of the sequence.
        layers: Number of decoder layers.
        skip_all: Skipped share of all tokens by MoD layer; other layers compute every token.
    """
    return tuple(int(tokens * (1 - skip_all.get(layer, 0.0))) for layer in range(layers))


def _check_layers(kept: Iterable[int], shape: DecoderShape) -> None:
    given = len(list(kept))
    if given != shape.layers:
        raise ValueError(f"kept must hold {shape.layers} counts, one per layer; got {given}")
