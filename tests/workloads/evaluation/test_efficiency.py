import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from workloads.evaluation import (
    DecoderShape,
    decoder_flops,
    kept_tokens,
    kv_cache_bytes,
    layer_flops,
)

SEVEN_B = DecoderShape(
    layers=32, hidden=4096, intermediate=11008, query_width=4096, key_width=4096, value_bytes=2
)
THIRTEEN_B = DecoderShape(
    layers=40, hidden=5120, intermediate=13824, query_width=5120, key_width=5120, value_bytes=2
)


@pytest.mark.parametrize(
    ("shape", "tokens", "dense_layers", "skip", "tflops", "printed"),
    [
        (SEVEN_B, 1400, 32, 0.0, 19.16, 19.2),
        (SEVEN_B, 1400, 4, 0.164, 16.28, 16.3),
        (SEVEN_B, 1400, 4, 0.379, 12.59, 12.6),
        (SEVEN_B, 1400, 4, 0.489, 10.73, 10.7),
        (SEVEN_B, 1400, 4, 0.577, 9.26, 9.3),
        (SEVEN_B, 1400, 4, 0.743, 6.52, 6.5),
        (SEVEN_B, 1400, 0, 0.347, 12.28, 12.3),
        (THIRTEEN_B, 1400, 40, 0.0, 37.13, 37.1),
        (THIRTEEN_B, 1400, 4, 0.349, 25.13, 25.1),
        (THIRTEEN_B, 1400, 4, 0.551, 18.35, 18.4),
        (SEVEN_B, 800, 32, 0.0, 10.7, 10.7),
        (SEVEN_B, 800, 4, 0.31, 7.73, 7.7),
        (SEVEN_B, 800, 4, 0.564, 5.34, 5.3),
        (SEVEN_B, 4000, 32, 0.0, 60.2, 60.2),
        (SEVEN_B, 4000, 4, 0.362, 39.43, 39.4),
        (SEVEN_B, 4000, 4, 0.581, 27.81, 27.8),
    ],
)
def test_the_closed_form_gives_the_tflops_columns_of_the_gamma_mod_paper(
    shape: DecoderShape,
    tokens: int,
    dense_layers: int,
    skip: float,
    tflops: float,
    printed: float,
) -> None:
    skipping = dict.fromkeys(range(dense_layers, shape.layers), skip)
    closed = decoder_flops(kept_tokens(tokens, shape.layers, skipping), shape) / 1e12
    assert closed == pytest.approx(tflops, abs=0.005)
    # One entry of 16 was rounded twice: 18.346 by way of 18.35 to 18.4.
    assert round(round(closed, 2) + 1e-9, 1) == printed


def test_grouped_queries_make_two_of_the_four_projections_smaller() -> None:
    plain = layer_flops(10, 64, 128)
    grouped = layer_flops(10, 64, 128, key_width=16)
    assert plain - grouped == 2 * 2 * 10 * 64 * (64 - 16)


def test_the_cache_holds_keys_and_values_of_the_kept_tokens() -> None:
    kept = [100] * 16 + [50] * 16
    assert kv_cache_bytes(kept, SEVEN_B) == 2400 * 2 * 4096 * 2


def test_the_shape_is_read_from_the_configuration() -> None:
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )
    assert DecoderShape.of(LlamaForCausalLM(config).to(torch.bfloat16)) == DecoderShape(
        layers=3, hidden=32, intermediate=48, query_width=64, key_width=32, value_bytes=2
    )


def test_rejects_counts_that_are_not_one_per_layer() -> None:
    with pytest.raises(ValueError, match=r"32 counts.*got 2"):
        decoder_flops([1, 2], SEVEN_B)
