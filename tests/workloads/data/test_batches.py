from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaProcessor

from workloads.data import (
    Conversation,
    Encoder,
    Sample,
    Shard,
    TrainingBatches,
    Turn,
    analysis_batches,
    analysis_indices,
    open_shard,
    prompt_batches,
    write_shard,
)
from workloads.errors import DataError


def sample(number: int) -> Sample:
    turns = (Turn("human", "<image>Is there a 7?"), Turn("gpt", str(number)))
    image = Image.new("L", (64, 64), number)
    return Sample(f"sample-{number}", (image,), turns, {"kind": f"kind-{number % 2}"})


SAMPLES = [sample(number) for number in range(10)]

TOO_LONG = "?" * 2000
"""More tokens than the model takes."""


@pytest.fixture
def encoder(processor: LlavaProcessor) -> Encoder:
    return Encoder(processor)


MakeShard = Callable[..., Shard]


@pytest.fixture
def make_shard(tmp_path: Path) -> MakeShard:
    """Writes `SAMPLES`, or conversations of the given texts, as a shard."""

    def make(texts: Sequence[str] = (), *, damaged: Collection[int] = ()) -> Shard:
        conversations = []
        for number, each in enumerate(SAMPLES if not texts else ()):
            each.images[0].save(tmp_path / f"{number}.png")
            if number in damaged:
                content = (tmp_path / f"{number}.png").read_bytes()
                (tmp_path / f"{number}.png").write_bytes(content[: len(content) // 2])
            conversations.append(Conversation(each.id, (f"{number}.png",), each.turns, each.tags))
        conversations += [
            Conversation(f"text-{number}", (), (Turn("human", text), Turn("gpt", "7")))
            for number, text in enumerate(texts)
        ]
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.arrow"
        write_shard(conversations, tmp_path, path)
        return open_shard(path)

    return make


def levels(batches: Sequence[dict[str, torch.Tensor]]) -> list[float]:
    return [value for batch in batches for value in batch["pixel_values"][:, 0, 0, 0].tolist()]


def test_ranks_share_the_batch_that_one_rank_sees(encoder: Encoder, make_shard: MakeShard) -> None:
    shard = make_shard()

    def at(step: int, rank: int, world_size: int) -> list[dict[str, torch.Tensor]]:
        batches = TrainingBatches(
            shard,
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


def test_the_ids_of_a_step_are_those_of_its_global_batch_on_every_rank(
    encoder: Encoder, make_shard: MakeShard
) -> None:
    shard = make_shard()
    ranks = [
        TrainingBatches(
            shard, encoder, global_batch=8, micro_batch=2, seed=3, rank=rank, world_size=2
        )
        for rank in range(2)
    ]
    ids = ranks[0].sample_ids(1)
    assert ids == ranks[1].sample_ids(1)
    seen = [level for each in ranks for level in levels(each.at(1))]
    expected = levels([encoder.training_batch([SAMPLES[int(i.split("-")[1])] for i in ids])])
    assert seen == expected


def test_a_resumed_run_gets_the_batches_it_missed(encoder: Encoder, make_shard: MakeShard) -> None:
    def batches() -> TrainingBatches:
        return TrainingBatches(make_shard(), encoder, global_batch=4, micro_batch=4, seed=0)

    undisturbed, resumed = batches(), batches()
    expected = [levels(undisturbed.at(step)) for step in range(6)]
    assert [levels(resumed.at(step)) for step in (3, 4, 5)] == expected[3:]
    assert levels(resumed.at(1)) == expected[1]


def test_a_damaged_image_is_replaced_by_the_next_of_the_order_whoever_finds_it(
    encoder: Encoder, make_shard: MakeShard
) -> None:
    shard, damaged = make_shard(), make_shard(damaged=(3, 4))
    order = [
        int(each.split("-")[1])
        for step in range(4)
        for each in TrainingBatches(
            shard, encoder, global_batch=8, micro_batch=8, seed=0
        ).sample_ids(step)
    ]
    expected = [
        next(number for number in order[place:] if number not in (3, 4)) for place in range(24)
    ]
    for micro_batch, world_size in ((8, 1), (2, 1), (4, 2), (1, 4)):
        ranks = [
            TrainingBatches(
                damaged,
                encoder,
                global_batch=8,
                micro_batch=micro_batch,
                seed=0,
                rank=rank,
                world_size=world_size,
            )
            for rank in range(world_size)
        ]
        seen = [level for step in range(3) for each in ranks for level in levels(each.at(step))]
        assert seen == levels([encoder.training_batch([SAMPLES[i] for i in expected])])
        told = sorted(
            (each.step, each.position, each.sample, each.by)
            for rank in ranks
            for each in rank.replaced
        )
        assert told == [
            (place // 8 + 1, place % 8, f"sample-{number}", f"sample-{expected[place]}")
            for place, number in enumerate(order[:24])
            if number in (3, 4)
        ]


def test_it_tells_why_a_sample_was_replaced_without_saying_where_the_shard_lies(
    encoder: Encoder, make_shard: MakeShard
) -> None:
    told: list[str] = []
    batches = TrainingBatches(
        make_shard(damaged=(3,)),
        encoder,
        global_batch=10,
        micro_batch=5,
        seed=0,
        tell=told.append,
    )
    batches.at(0)
    (replaced,) = batches.replaced
    assert told == [f"step 1: sample 'sample-3' is replaced by {replaced.by!r}: {replaced.reason}"]
    assert replaced.sample == "sample-3"
    assert replaced.reason.startswith("image 1 cannot be decoded: image file is truncated")
    assert replaced.sample in batches.sample_ids(0)


def test_a_sample_that_is_too_long_is_replaced(encoder: Encoder, make_shard: MakeShard) -> None:
    batches = TrainingBatches(
        make_shard(["?", TOO_LONG, "??", "???"]), encoder, global_batch=4, micro_batch=2, seed=0
    )
    assert [len(batch["input_ids"]) for batch in batches.at(0)] == [2, 2]
    (replaced,) = batches.replaced
    assert replaced.sample == "text-1"
    assert "more than the limit" in replaced.reason


def test_what_was_replaced_before_a_resume_is_known_after_it_on_any_number_of_ranks(
    encoder: Encoder, make_shard: MakeShard, tmp_path: Path
) -> None:
    shard = make_shard(damaged=(0, 5, 6))
    folder = tmp_path / "checkpoint"
    folder.mkdir()

    def ranks(world_size: int) -> list[TrainingBatches]:
        return [
            TrainingBatches(
                shard,
                encoder,
                global_batch=4,
                micro_batch=2,
                seed=0,
                rank=rank,
                world_size=world_size,
            )
            for rank in range(world_size)
        ]

    undisturbed, (resumed,) = ranks(2), ranks(1)
    for each in undisturbed:
        for step in range(2):
            each.at(step)
        each.save(folder)
        for step in range(2, 5):
            each.at(step)
    resumed.at(4)
    resumed.load(folder)
    for step in range(2, 5):
        resumed.at(step)
    everything = [each for rank in undisturbed for each in rank.replaced]
    assert len(everything) == 6  # three samples in two epochs
    assert resumed.replaced == sorted(everything, key=lambda each: (each.step, each.position))


def test_an_error_while_preparing_reaches_the_caller(
    encoder: Encoder, make_shard: MakeShard
) -> None:
    shard = make_shard([TOO_LONG])
    batches = TrainingBatches(shard, encoder, global_batch=1, micro_batch=1, seed=0)
    for step in range(2):
        with pytest.raises(DataError, match="sample 'text-0'"):
            batches.at(step)


def test_a_dataset_without_a_sample_that_can_be_used_is_an_error(
    encoder: Encoder, make_shard: MakeShard
) -> None:
    shard = make_shard([TOO_LONG] * 120)
    batches = TrainingBatches(shard, encoder, global_batch=2, micro_batch=1, seed=0)
    with pytest.raises(DataError, match=r"needs .* tokens.*none of the 99 samples after it"):
        batches.at(0)


def test_ranks_share_a_grouped_batch_of_which_each_gets_every_other_part(
    encoder: Encoder, make_shard: MakeShard
) -> None:
    shard = make_shard(["?" * (number % 7 + 1) for number in range(32)])
    alone, *ranks = [
        TrainingBatches(
            shard,
            encoder,
            global_batch=16,
            micro_batch=2,
            seed=0,
            rank=rank,
            world_size=world_size,
            group_by_length=True,
        )
        for rank, world_size in ((0, 1), (0, 2), (1, 2))
    ]
    for step in range(3):
        parts = alone.at(step)
        for rank, each in enumerate(ranks):
            for mine, expected in zip(each.at(step), parts[rank::2], strict=True):
                assert mine["input_ids"].equal(expected["input_ids"])
    lengths = [int(batch["attention_mask"].sum(1).max()) for batch in alone.at(0)]
    assert lengths == sorted(lengths)


def test_grouping_leaves_less_padding_in_what_the_model_sees(
    encoder: Encoder, make_shard: MakeShard
) -> None:
    rng = np.random.default_rng(0)
    shard = make_shard(["?" * int(rng.integers(1, 200)) for _ in range(96)])

    def padding(*, group_by_length: bool) -> float:
        batches = TrainingBatches(
            shard,
            encoder,
            global_batch=8,
            micro_batch=4,
            seed=0,
            group_by_length=group_by_length,
        )
        masks = [batch["attention_mask"] for step in range(12) for batch in batches.at(step)]
        return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)

    assert padding(group_by_length=False) > 0.25
    assert padding(group_by_length=True) < 0.05


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
    sizes: dict[str, int], reason: str, encoder: Encoder, make_shard: MakeShard
) -> None:
    with pytest.raises(ValueError, match=reason):
        TrainingBatches(make_shard(), encoder, seed=0, **sizes)


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
