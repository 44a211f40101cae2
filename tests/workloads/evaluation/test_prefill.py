import pytest
import torch
from transformers import LlamaForCausalLM

from workloads.evaluation import (
    DecoderShape,
    EvaluationError,
    decoder_flops,
    kv_cache_bytes,
    prefill_cost,
)


def batch(lengths: tuple[int, ...] = (16, 16)) -> dict[str, torch.Tensor]:
    """Left-padded prompts of these lengths."""
    seq = max(lengths)
    mask = torch.tensor([[0] * (seq - length) + [1] * length for length in lengths])
    ids = torch.randint(3, 64, mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_kinds": mask * 3}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_counting_a_dense_prefill_gives_the_closed_form(
    llama: LlamaForCausalLM, implementation: str
) -> None:
    llama.set_attn_implementation(implementation)
    cost = prefill_cost(llama, batch())
    shape = DecoderShape.of(llama)
    assert cost.kept == (16.0,) * 3
    assert cost.tflops_closed == pytest.approx(decoder_flops([16] * 3, shape) / 1e12)
    assert cost.tflops_counted == pytest.approx(cost.tflops_closed)
    assert cost.tflops_per_layer == pytest.approx([cost.tflops_closed / 3] * 3)
    assert cost.tflops_counted_model > cost.tflops_counted
    assert cost.kv_bytes_closed == cost.kv_bytes_counted == kv_cache_bytes([16] * 3, shape)


def test_padding_is_in_what_is_counted_and_not_in_the_closed_form(llama: LlamaForCausalLM) -> None:
    cost = prefill_cost(llama, batch((16, 8)))
    assert cost.tokens == 12.0
    assert cost.kept == (12.0,) * 3
    assert cost.tflops_counted > cost.tflops_closed
    assert cost.kv_bytes_counted == cost.kv_bytes_closed * 16 / 12


def test_counting_leaves_no_hook_behind(llama: LlamaForCausalLM) -> None:
    prefill_cost(llama, batch())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in llama.modules())


def test_a_prefill_without_cache_is_an_error(
    llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense_forward = llama.forward
    monkeypatch.setattr(
        llama, "forward", lambda **inputs: dense_forward(**{**inputs, "use_cache": False})
    )
    with pytest.raises(EvaluationError, match="no key-value cache"):
        prefill_cost(llama, batch())
