from collections.abc import Sequence

import pytest
import torch
from PIL import Image
from transformers import LlavaProcessor

from workloads.data import (
    Encoder,
    Sample,
    TrainingBatches,
    Turn,
    analysis_batches,
    analysis_indices,
    prompt_batches,
)
from workloads.errors import DataError


def sample(number: int) -> Sample:
    turns = (Turn("human", "<image>Is there a 7?"), Turn("gpt", str(number)))
    image = Image.new("L", (64, 64), number)
    return Sample(f"sample-{number}", (image,), turns, {"kind": f"kind-{number % 2}"})


SAMPLES = [sample(number) for number in range(10)]


@pytest.fixture
def encoder(processor: LlavaProcessor) -> Encoder:
    return Encoder(processor)


def levels(batches: Sequence[dict[str, torch.Tensor]]) -> list[float]:
    return [value for batch in batches for value in batch["pixel_values"][:, 0, 0, 0].tolist()]


def test_ranks_share_the_batch_that_one_rank_sees(encoder: Encoder) -> None:
    def at(step: int, rank: int, world_size: int) -> list[dict[str, torch.Tensor]]:
        batches = TrainingBatches(
            SAMPLES,
            encoder,
            global_batch=8,
            micro_batch=2,
            seed=3,
            rank=rank,
            world_size=world_size,
        )
        return batches.at(step)

    for step in range(3):
        alone = at(step, 0, 1)
        assert [len(batch["input_ids"]) for batch in alone] == [2] * 4
        assert levels([*at(step, 0, 2), *at(step, 1, 2)]) == levels(alone)


def test_the_ids_of_a_step_are_those_of_its_global_batch_on_every_rank(encoder: Encoder) -> None:
    ranks = [
        TrainingBatches(
            SAMPLES, encoder, global_batch=8, micro_batch=2, seed=3, rank=rank, world_size=2
        )
        for rank in range(2)
    ]
    ids = ranks[0].sample_ids(1)
    assert ids == ranks[1].sample_ids(1)
    seen = [level for each in ranks for level in levels(each.at(1))]
    expected = levels([encoder.training_batch([SAMPLES[int(i.split("-")[1])] for i in ids])])
    assert seen == expected


def test_a_resumed_run_gets_the_batches_it_missed(encoder: Encoder) -> None:
    def batches() -> TrainingBatches:
        return TrainingBatches(SAMPLES, encoder, global_batch=4, micro_batch=4, seed=0)

    undisturbed, resumed = batches(), batches()
    expected = [levels(undisturbed.at(step)) for step in range(6)]
    assert [levels(resumed.at(step)) for step in (3, 4, 5)] == expected[3:]
    assert levels(resumed.at(1)) == expected[1]


def test_an_error_while_preparing_reaches_the_caller(encoder: Encoder) -> None:
    long = Sample("long", (), (Turn("human", "?" * 2000), Turn("gpt", "7")), {})
    batches = TrainingBatches([long], encoder, global_batch=1, micro_batch=1, seed=0)
    for step in range(2):
        with pytest.raises(DataError, match="sample 'long'"):
            batches.at(step)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"global_batch": 6, "micro_batch": 4}, "multiple of .* = 4 . 1, got 6"),
        ({"global_batch": 4, "micro_batch": 4, "world_size": 2}, "= 4 . 2, got 4"),
        ({"global_batch": 4, "micro_batch": 0}, "= 0 . 1, got 4"),
        ({"global_batch": 4, "micro_batch": 2, "rank": 2, "world_size": 2}, r"\[0, 2\), got 2"),
    ],
)
def test_refuses_shares_that_do_not_add_up(
    sizes: dict[str, int], reason: str, encoder: Encoder
) -> None:
    with pytest.raises(ValueError, match=reason):
        TrainingBatches(SAMPLES, encoder, seed=0, **sizes)


def test_prompts_come_in_order_with_what_the_judge_needs(encoder: Encoder) -> None:
    batches = list(prompt_batches(SAMPLES, encoder, batch_size=4, limit=6))
    assert [batch.answers for batch in batches] == [("0", "1", "2", "3"), ("4", "5")]
    assert batches[1].ids == ("sample-4", "sample-5")
    assert [tags["kind"] for tags in batches[1].tags] == ["kind-0", "kind-1"]
    assert "labels" not in batches[0].inputs
    assert len(list(prompt_batches(SAMPLES, encoder, batch_size=4))) == 3


def test_analysis_takes_what_it_is_told_to(encoder: Encoder) -> None:
    chosen = analysis_indices(len(SAMPLES), 5)
    by_count = list(analysis_batches(SAMPLES, encoder, samples=5))
    by_index = list(analysis_batches(SAMPLES, encoder, samples=chosen, batch_size=5))
    assert [len(batch["input_ids"]) for batch in by_count] == [1] * 5
    assert levels(by_count) == levels(by_index)
    assert (by_index[0]["labels"] >= 0).sum() == 10


def test_analysis_of_more_samples_keeps_those_of_fewer() -> None:
    assert analysis_indices(100, 20)[:10] == analysis_indices(100, 10)
    assert sorted(analysis_indices(7, 50)) == list(range(7))
    with pytest.raises(ValueError, match="at least one sample, got 0"):
        analysis_indices(7, 0)
