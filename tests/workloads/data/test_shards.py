import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from workloads.data import Conversation, Turn, open_shard, write_batches, write_shard
from workloads.errors import DataError

CONVERSATIONS = [
    Conversation("a", ("a.png",), (Turn("human", "<image>?"), Turn("gpt", "7")), {"kind": "place"}),
    Conversation("b", ("b.png", "a.png"), (Turn("human", "<image><image>"), Turn("gpt", "no"))),
    Conversation("c", (), (Turn("human", "why"), Turn("gpt", "because"))),
]


@pytest.fixture
def shard_path(image_root: Path) -> Path:
    path = image_root / "shard.arrow"
    write_shard(CONVERSATIONS, image_root, path)
    return path


def test_gives_back_what_was_written(shard_path: Path) -> None:
    shard = open_shard(shard_path)
    assert [(item.id, item.turns, dict(item.tags)) for item in shard] == [
        (item.id, item.turns, dict(item.tags)) for item in CONVERSATIONS
    ]
    assert [[image.getpixel((0, 0)) for image in item.images] for item in shard] == [
        [40],
        [200, 40],
        [],
    ]


def test_is_a_sequence(shard_path: Path) -> None:
    shard = open_shard(shard_path)
    assert len(shard) == 3
    assert shard[-1].id == "c"
    assert [item.id for item in shard[1:]] == ["b", "c"]
    with pytest.raises(IndexError, match="sample 3 of 3"):
        shard[3]


def test_tells_lengths_and_ids_without_reading_an_image(image_root: Path) -> None:
    (image_root / "a.png").write_bytes(b"no image")
    write_shard(CONVERSATIONS, image_root, image_root / "shard.arrow")
    shard = open_shard(image_root / "shard.arrow")
    assert shard.ids([2, 0]) == ["c", "a"]
    assert shard.lengths().tolist() == [[1, 9], [2, 16], [0, 10]]
    with pytest.raises(DataError, match=r"sample 'a': image 1 cannot be decoded: .* no format"):
        shard[0]


def test_holds_more_rows_than_one_record_batch(image_root: Path) -> None:
    many = [
        Conversation(str(number), (), (Turn("human", "?"), Turn("gpt", str(number))))
        for number in range(600)
    ]
    write_shard(many, image_root, image_root / "many.arrow")
    shard = open_shard(image_root / "many.arrow")
    assert len(shard) == 600
    assert shard[599].turns[1].text == "599"


def test_the_same_input_gives_the_same_bytes(shard_path: Path, image_root: Path) -> None:
    again = image_root / "again.arrow"
    write_shard(CONVERSATIONS, image_root, again)
    assert again.read_bytes() == shard_path.read_bytes()


def numbered(count: int) -> list[Conversation]:
    turns = (Turn("human", "?" * 200), Turn("gpt", "7"))
    return [Conversation(str(number), (), turns) for number in range(count)]


def test_a_large_shard_is_a_folder_of_files_that_reads_as_one(tmp_path: Path) -> None:
    write_shard(numbered(1500), tmp_path, tmp_path / "one.arrow")
    with pa.ipc.open_file(str(tmp_path / "one.arrow")) as source:
        batches = [source.get_batch(number) for number in range(source.num_record_batches)]
    write_batches(batches, tmp_path / "train.arrow", file_bytes=100_000)
    assert sorted(file.name for file in (tmp_path / "train.arrow").iterdir()) == [
        f"train-{number:05d}-of-00003.arrow" for number in range(3)
    ]
    shard = open_shard(tmp_path / "train.arrow")
    assert [sample.id for sample in shard] == [str(number) for number in range(1500)]
    assert shard.ids([1499, 3]) == ["1499", "3"]
    assert shard.lengths().tolist() == [[0, 201]] * 1500
    assert pickle.loads(pickle.dumps(shard))[777].id == "777"
    write_batches(batches, tmp_path / "train.arrow")
    assert (tmp_path / "train.arrow").read_bytes() == (tmp_path / "one.arrow").read_bytes()
    write_batches(batches, tmp_path / "train.arrow", file_bytes=100_000)
    (tmp_path / "train.arrow" / "train-00001-of-00003.arrow").unlink()
    with pytest.raises(DataError, match="has 2 of the 3 files"):
        open_shard(tmp_path / "train.arrow")


def test_travels_to_another_process_as_its_path(shard_path: Path) -> None:
    assert pickle.loads(pickle.dumps(open_shard(shard_path)))[0].id == "a"


def test_leaves_nothing_half_written(image_root: Path) -> None:
    gone = Conversation("gone", ("gone.png",), CONVERSATIONS[0].turns)
    before = sorted(image_root.iterdir())
    with pytest.raises(DataError, match=r"gone\.png.*image of 'gone'.*cannot be read"):
        write_shard([*CONVERSATIONS, gone], image_root, image_root / "shard.arrow")
    with pytest.raises(DataError, match="at least one"):
        write_shard([], image_root, image_root / "shard.arrow")
    assert sorted(image_root.iterdir()) == before


@pytest.mark.parametrize(
    "content", [None, b"", b"no arrow at all"], ids=["missing", "empty", "other"]
)
def test_refuses_what_is_no_shard(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "shard.arrow"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="is not a readable shard"):
        open_shard(path)
