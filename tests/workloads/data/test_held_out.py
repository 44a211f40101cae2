from pathlib import Path

import pytest

from workloads.data import Conversation, Shard, Turn, hold_out, open_shard, write_shard
from workloads.errors import DataError


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    turns = (Turn("human", "How much?"), Turn("gpt", "Enough."))
    conversations = [Conversation(f"sample-{number}", (), turns, {}) for number in range(20)]
    write_shard(conversations, tmp_path, tmp_path / "train.arrow")
    return open_shard(tmp_path / "train.arrow")


def test_a_sample_is_trained_on_or_held_out_and_never_both(shard: Shard) -> None:
    rest, held_out = hold_out(shard, 6, seed=0)
    trained, measured = ({sample.id for sample in part} for part in (rest, held_out))
    assert len(measured) == 6
    assert not trained & measured
    assert trained | measured == {sample.id for sample in shard}


def test_the_seed_decides_which_ones(shard: Shard) -> None:
    def held_out(seed: int) -> list[str]:
        return hold_out(shard, 6, seed=seed)[1].ids(range(6))

    assert held_out(0) == held_out(0) != held_out(1)
    assert held_out(0) != [f"sample-{number}" for number in range(6)]


def test_a_part_tells_lengths_and_ids_as_its_shard_does(shard: Shard) -> None:
    _, held_out = hold_out(shard, 6, seed=0)
    assert held_out.lengths().shape == (6, 2)
    assert held_out.ids([0, 5]) == [held_out[0].id, held_out[5].id]
    assert [sample.id for sample in held_out[1:3]] == held_out.ids([1, 2])


def test_more_held_out_than_left_is_refused(shard: Shard) -> None:
    with pytest.raises(DataError, match="has 20 samples, of which validation would hold out 11"):
        hold_out(shard, 11, seed=0)
