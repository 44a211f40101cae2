"""Evaluation of converted models: what is counted is what they computed."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from workloads.data import PromptBatch
from workloads.evaluation import (
    DecoderShape,
    answer_questions,
    decoder_flops,
    kv_cache_bytes,
    layer_flops,
    prefill,
    prefill_cost,
    side_by_side,
    training_step,
)
from workloads.kinds import TokenKind
from workloads.mod import MoDConfig, RoutingRecord, convert

IMAGE, QUESTION = int(TokenKind.IMAGE), int(TokenKind.QUESTION)
CONFIG = MoDConfig.gamma(layers=[1, 3], capacity_ratio=0.5, threshold=0.5)


@pytest.fixture
def mod(llava: LlavaForConditionalGeneration) -> LlavaForConditionalGeneration:
    """The converted twin of ``llava``, whose router parts image tokens clearly."""
    converted = convert(copy.deepcopy(llava), CONFIG)
    torch.nn.init.normal_(
        next(p for name, p in converted.named_parameters() if "mod_router" in name), std=0.5
    )
    return converted


def prompts(questions: tuple[int, ...] = (5,)) -> dict[str, Tensor]:
    """One image and a question of so many tokens per row, left-padded."""
    generator = torch.Generator().manual_seed(1)
    seq = 16 + max(questions)
    ids, kinds = torch.zeros(2, len(questions), seq, dtype=torch.int64)
    for row, length in enumerate(questions):
        start = seq - 16 - length
        ids[row, start : start + 16], kinds[row, start : start + 16] = 3, IMAGE
        ids[row, start + 16 :] = torch.randint(4, 64, (length,), generator=generator)
        kinds[row, start + 16 :] = QUESTION
    return {
        "input_ids": ids,
        "attention_mask": kinds.ne(0).long(),
        "token_kinds": kinds,
        "pixel_values": torch.randn(len(questions), 3, 16, 16, generator=generator),
    }


def test_a_prefill_costs_what_its_layers_kept(mod: LlavaForConditionalGeneration) -> None:
    cost = prefill_cost(mod, prompts())
    shape = DecoderShape.of(mod)
    kept = tuple(int(count) for count in cost.kept)
    assert kept[0] == kept[2] == 21
    assert all(5 <= kept[layer] < 21 for layer in CONFIG.layers), "nothing was skipped"
    assert cost.tflops_closed == pytest.approx(decoder_flops(kept, shape) / 1e12)
    assert cost.kv_bytes_closed == cost.kv_bytes_counted == kv_cache_bytes(kept, shape)
    for layer, tokens in enumerate(kept):
        closed = layer_flops(tokens, 32, 48, key_width=shape.key_width)
        extra = cost.tflops_per_layer[layer] * 1e12 - closed
        most = 2 * 21 * 32 * 2 if layer in CONFIG.layers else 0
        assert -0.5 < extra < most + 0.5, "a router scores each of 21 tokens for two classes"


def test_rows_of_different_lengths_are_averaged(mod: LlavaForConditionalGeneration) -> None:
    cost = prefill_cost(mod, prompts((5, 9)))
    assert cost.tokens == 23.0
    assert cost.kept[0] == 23.0
    assert cost.kept[1] < 23.0
    assert cost.kv_bytes_counted >= cost.kv_bytes_closed


def test_skip_is_measured_while_questions_are_answered(
    mod: LlavaForConditionalGeneration,
) -> None:
    inputs = prompts((5, 9))
    batch = PromptBatch(inputs, answers=("a", "b"), ids=("q0", "q1"), tags=({}, {}))
    tokenizer = SimpleNamespace(
        pad_token_id=0,
        eos_token_id=2,
        batch_decode=lambda rows, skip_special_tokens: [str(row.tolist()) for row in rows],
    )
    record = RoutingRecord()
    predictions = answer_questions(
        mod,
        SimpleNamespace(tokenizer=tokenizer),  # type: ignore[arg-type]
        [batch],
        max_new_tokens=4,
        routing_record=record,
    )
    assert len({prediction.answer for prediction in predictions}) == 2
    cost = prefill_cost(mod, inputs)
    skipped = 1 - (cost.kept[1] + cost.kept[3]) / (2 * cost.tokens)
    assert record.skip_all() == pytest.approx(skipped)
    assert set(record.per_layer()) == {1, 3}


def test_twins_are_timed_on_the_same_batch(
    llava: LlavaForConditionalGeneration, mod: LlavaForConditionalGeneration
) -> None:
    batch = prompts()
    labels = batch["input_ids"].masked_fill(batch["token_kinds"] == IMAGE, -100)
    for run in (prefill(batch), training_step({**batch, "labels": labels})):
        comparison = side_by_side(llava, mod, run, warmups=0, repeats=1)
        assert comparison.median_ratio > 0
