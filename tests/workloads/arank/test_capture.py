import json
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    CLIPVisionConfig,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MambaConfig,
    MambaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from workloads.arank import ARankError, RankOptions, arank_samples, map_ranks
from workloads.arank.capture import attention_observed
from workloads.kinds import TokenKind
from workloads.mod import MoDConfig, convert

TINY = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def tokens(rows: int, seq: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, 96, (rows, seq), generator=generator)


def released_ranks(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The released procedure: keep every map of an eager model, rank each."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(**batch, output_attentions=True).attentions
    return torch.stack([map_ranks(layer) for layer in maps], dim=1)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_ranks_are_those_of_the_maps_the_model_attends_with(
    llama: LlamaForCausalLM, implementation: str
) -> None:
    batch = {"input_ids": tokens(2, 24)}
    expected = released_ranks(llama, batch)
    assert expected.unique().numel() > 2, "a test whose ranks are all equal shows nothing"
    llama.set_attn_implementation(implementation)
    assert arank_samples(llama, batch).equal(expected)


@pytest.mark.parametrize(
    "model",
    [
        Qwen3ForCausalLM(Qwen3Config(**TINY)),
        Gemma2ForCausalLM(
            Gemma2Config(
                **TINY,
                attn_logit_softcapping=2.0,
                sliding_window=6,
                layer_types=["sliding_attention", "full_attention"],
            )
        ),
    ],
    ids=["query and key norm", "softcap and sliding window"],
)
def test_what_a_family_does_to_its_logits_is_in_the_map(model: Any) -> None:
    model.eval()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            torch.nn.init.normal_(parameter, std=0.4)
    batch = {"input_ids": tokens(1, 20)}
    assert arank_samples(model, batch).equal(released_ranks(model, batch))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_no_rank(llama: LlamaForCausalLM, side: str) -> None:
    long, short = tokens(1, 24, seed=1), tokens(1, 17, seed=2)
    alone = [arank_samples(llama, {"input_ids": row}) for row in (long, short)]
    padding = torch.zeros(1, 7, dtype=torch.int64)
    ends = (padding, short) if side == "left" else (short, padding)
    ids = torch.cat([long, torch.cat(ends, dim=1)])
    mask = torch.cat([torch.ones(1, 24, dtype=torch.int64), torch.cat(ends, dim=1).ne(0).long()])
    together = arank_samples(llama, {"input_ids": ids, "attention_mask": mask})
    assert together.equal(torch.cat(alone))


def test_an_image_text_model_is_measured_in_its_decoder_only() -> None:
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    text = LlamaConfig(**TINY)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=3)
    )
    ids = torch.cat([tokens(1, 3), torch.full((1, 4), 3), tokens(1, 5, seed=1)], dim=1)
    ranks = arank_samples(
        model,
        {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.randn(1, 3, 16, 16),
            "token_kinds": torch.full_like(ids, int(TokenKind.QUESTION)),
            "labels": ids,
        },
    )
    assert ranks.shape == (1, 2, 4)


def test_logits_have_at_most_the_rank_of_a_head(llama: LlamaForCausalLM) -> None:
    ranks = arank_samples(llama, {"input_ids": tokens(1, 24)}, RankOptions(map="logits"))
    assert ranks.max() <= 8


def test_a_half_precision_model_is_measured_in_float32(llama: LlamaForCausalLM) -> None:
    seen = []
    llama.bfloat16()
    with torch.no_grad(), attention_observed(llama, lambda _, inputs: seen.append(inputs)):
        llama(tokens(1, 12))
    query, key = seen[0].query.float(), seen[0].key.float().repeat_interleave(4, dim=1)
    logits = query @ key.transpose(-1, -2) * seen[0].scale
    logits = logits.masked_fill(~torch.ones(12, 12).tril().bool(), -torch.inf)
    first = arank_samples(llama, {"input_ids": tokens(1, 12)})[:, 0]
    assert first.equal(map_ranks(logits.softmax(-1)))


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(llama: LlamaForCausalLM, fails: bool) -> None:
    llama.train()
    llama.model.layers[1].eval()
    before = {name: module.training for name, module in llama.named_modules()}
    weights = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    functions, masks = list(AttentionInterface()), list(AttentionMaskInterface())
    if fails:
        llama.model.layers[2].self_attn.q_proj.weight.data[0, 0] = torch.nan
        weights["model.layers.2.self_attn.q_proj.weight"][0, 0] = torch.nan
        with pytest.raises(ARankError, match=r"layer 2: sample 0.*NaN"):
            arank_samples(llama, {"input_ids": tokens(1, 8)})
    else:
        arank_samples(llama, {"input_ids": tokens(1, 8)})
    assert llama.config._attn_implementation == "sdpa"
    assert {name: module.training for name, module in llama.named_modules()} == before
    assert (list(AttentionInterface()), list(AttentionMaskInterface())) == (functions, masks)
    for name, tensor in llama.state_dict().items():
        assert torch.equal(tensor.nan_to_num(7), weights[name].nan_to_num(7))


def test_observing_changes_no_output(llama: LlamaForCausalLM) -> None:
    ids = tokens(2, 16)
    with torch.no_grad():
        plain = llama(ids).logits
        with attention_observed(llama, lambda *_: None):
            observed = llama(ids).logits
    torch.testing.assert_close(observed, plain)


def test_nothing_is_computed_behind_the_last_map(llama: LlamaForCausalLM) -> None:
    calls: list[str] = []
    llama.model.layers[-1].mlp.register_forward_hook(lambda *_: calls.append("last MLP"))
    llama.lm_head.register_forward_hook(lambda *_: calls.append("head"))
    arank_samples(llama, {"input_ids": tokens(1, 8)})
    assert calls == []


def test_rejects_a_sample_of_one_token(llama: LlamaForCausalLM) -> None:
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    with pytest.raises(ARankError, match=r"layer 0: sample 1.*two tokens.*got 1"):
        arank_samples(llama, {"input_ids": tokens(2, 3), "attention_mask": mask})


def test_rejects_a_model_without_softmax_attention() -> None:
    config = MambaConfig(vocab_size=96, hidden_size=16, num_hidden_layers=2, state_size=4)
    with pytest.raises(ARankError, match=r"Mamba(ForCausalLM|Block)"):
        arank_samples(MambaForCausalLM(config), {"input_ids": tokens(1, 6)})


def test_rejects_a_model_without_a_list_of_decoder_layers() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=16, n_layer=2, n_head=2))
    with pytest.raises(ARankError, match="GPT2LMHeadModel has no decoder"):
        arank_samples(model, {"input_ids": tokens(1, 6)})


def test_rejects_a_converted_model(llama: LlamaForCausalLM) -> None:
    convert(llama, MoDConfig.gamma(layers=[1]))
    with pytest.raises(ARankError, match="measure before converting"):
        arank_samples(llama, {"input_ids": tokens(1, 6)})


KINDS = torch.tensor([[TokenKind.SYSTEM] * 3 + [TokenKind.IMAGE] * 14 + [TokenKind.QUESTION] * 7])


@pytest.mark.parametrize(
    ("block", "rows"), [("image-image", slice(3, 17)), ("text-image", [0, 1, 2, *range(17, 24)])]
)
def test_a_block_of_token_kinds_is_cut_out_of_the_whole_map(
    llama: LlamaForCausalLM, block: str, rows: slice | list[int]
) -> None:
    ids = tokens(1, 24)
    llama.set_attn_implementation("eager")
    with torch.no_grad():
        maps = torch.stack(llama(ids, output_attentions=True).attentions)[:, 0]
    blocks = maps.tril(-1)[:, :, rows][..., 3:17]
    expected = [[int(torch.linalg.matrix_rank(head)) for head in layer] for layer in blocks]
    batch = {"input_ids": ids, "token_kinds": KINDS}
    ranks = arank_samples(llama, batch, RankOptions(block=block))  # type: ignore[arg-type]
    assert ranks[0].tolist() == expected


def test_blocks_of_logits_are_ranked_by_their_queries_and_keys(llama: LlamaForCausalLM) -> None:
    batch = {"input_ids": tokens(1, 24), "token_kinds": KINDS}
    options = RankOptions(map="logits", block="text-image")
    assert arank_samples(llama, batch, options).max() <= 8


def test_padding_is_no_text(llama: LlamaForCausalLM) -> None:
    alone = {"input_ids": tokens(1, 24), "token_kinds": KINDS}
    padded = {name: torch.nn.functional.pad(values, (5, 0)) for name, values in alone.items()}
    padded["attention_mask"] = padded["token_kinds"].ne(TokenKind.PAD).long()
    options = RankOptions(block="text-image")
    assert arank_samples(llama, padded, options).equal(arank_samples(llama, alone, options))


def test_rejects_a_block_that_a_sample_does_not_have(llama: LlamaForCausalLM) -> None:
    ids, options = tokens(1, 6), RankOptions(block="image-image")
    with pytest.raises(ARankError, match="'image-image' needs token_kinds"):
        arank_samples(llama, {"input_ids": ids}, options)
    text = torch.full_like(ids, int(TokenKind.QUESTION))
    with pytest.raises(ARankError, match=r"sample 0.*two image tokens.*got 0 and 0"):
        arank_samples(llama, {"input_ids": ids, "token_kinds": text}, options)


def peak_bytes(work: Callable[[], object], trace: Path) -> int:
    """The most that torch's allocator held at a time, over what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    profiler.export_chrome_trace(str(trace))
    events = [e for e in json.loads(trace.read_text())["traceEvents"] if e["name"] == "[memory]"]
    steps = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]
    return max(accumulate(steps))


@pytest.mark.parametrize("seq", [96, 400])
def test_the_maps_of_one_layer_are_alive_at_most_however_many_layers(
    seq: int, tmp_path: Path
) -> None:
    peaks = []
    for layers in (2, 5):
        sizes = {"num_hidden_layers": layers, "num_attention_heads": 16, "num_key_value_heads": 16}
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**TINY | sizes)).eval()
        batch = {"input_ids": tokens(1, seq)}
        arank_samples(model, batch)
        peaks.append(peak_bytes(lambda: arank_samples(model, batch), tmp_path / "trace.json"))  # noqa: B023
    ranks_of_three_layers = 3 * 16 * 8
    assert peaks[1] <= peaks[0] + ranks_of_three_layers + 2048
    one_layers_maps = 16 * seq * seq * 4
    assert peaks[1] < one_layers_maps
