import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from tests.workloads.data.conftest import WriteRecords
from workloads.data import Conversation, Turn, read_llava, write_llava
from workloads.errors import DataError


def record(**changes: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A seven."}]
    base = {"id": "one", "image": "a.png", "conversations": turns}
    return {name: value for name, value in (base | changes).items() if value is not ...}


def turns(*texts: str) -> list[dict[str, str]]:
    return [
        {"from": "gpt" if index % 2 else "human", "value": text} for index, text in enumerate(texts)
    ]


def test_reads_a_record_with_its_tags(write_records: WriteRecords, image_root: Path) -> None:
    path = write_records([record(tags={"kind": "place"}, source="elsewhere")])
    assert read_llava(path, image_root) == [
        Conversation(
            id="one",
            images=("a.png",),
            turns=(Turn("human", "<image>\nWhat?"), Turn("gpt", "A seven.")),
            tags={"kind": "place"},
        )
    ]


@pytest.mark.parametrize(
    "text", ["<image>\nWhat?", "What?\n<image>", "What is <image> this?", "<image>"]
)
def test_takes_the_mark_anywhere(text: str, write_records: WriteRecords, image_root: Path) -> None:
    path = write_records([record(conversations=turns(text, "7"))])
    assert read_llava(path, image_root)[0].turns[0].text == text


def test_takes_several_images_and_none(write_records: WriteRecords, image_root: Path) -> None:
    several = record(
        id="two", image=["a.png", "b.png"], conversations=turns("<image>?", "1", "<image>?", "2")
    )
    text_only = record(id="text", image=..., conversations=turns("Hello?", "Hello."))
    found = read_llava(write_records([several, text_only]), image_root)
    assert [conversation.images for conversation in found] == [("a.png", "b.png"), ()]


def test_takes_whole_numbers_and_absence_as_an_id(
    write_records: WriteRecords, image_root: Path
) -> None:
    path = write_records([record(id=7), record(id=...)])
    assert [conversation.id for conversation in read_llava(path, image_root)] == ["7", "record-1"]


def test_what_is_written_is_read_back(image_root: Path) -> None:
    conversations = [
        Conversation("a", ("a.png",), (Turn("human", "<image>é"), Turn("gpt", "7")), {"kind": "x"}),
        Conversation("b", ("a.png", "b.png"), (Turn("human", "<image><image>"), Turn("gpt", "7"))),
        Conversation("c", (), (Turn("human", "why"), Turn("gpt", "because"))),
    ]
    path = image_root / "out.json"
    write_llava(conversations, path)
    assert read_llava(path, image_root) == conversations


BAD_RECORDS = {
    "a turn too many": (record(conversations=turns("<image>", "7", "?")), "3 turns"),
    "no turns": (record(conversations=[]), "'conversations' should be a list"),
    "no answer first": (
        record(conversations=[{"from": "gpt", "value": "7"}] * 2),
        r"'conversations'\[0\] 'from' should be 'human', got str 'gpt'",
    ),
    "a turn of nobody": (
        record(conversations=[{"value": "<image>"}, {"from": "gpt", "value": "7"}]),
        r"\[0\] 'from' should be 'human', got nothing",
    ),
    "a blank answer": (
        record(conversations=turns("<image>", " ")),
        r"\[1\] 'value' should be text",
    ),
    "a turn that is text": (record(conversations=["<image>", "7"]), r"\[0\] should be {"),
    "an image that is a number": (record(image=3), "'image' should be text.*got int 3"),
    "a mark without an image": (record(image=...), "1 <image> mark.*0 image.*name the missing"),
    "an image without a mark": (
        record(conversations=turns("What?", "7")),
        "0 <image> mark.*1 image.*add a mark",
    ),
    "a missing image": (record(image="gone.png"), "gone.png does not exist; restore the file"),
    "an image elsewhere": (record(image="../a.png"), "lies outside the image root"),
    "a tag that is a number": (record(tags={"kind": 1}), "'tags' 'kind' should be text"),
    "tags that are a list": (record(tags=["place"]), "'tags' should be names"),
    "an id that is a list": (record(id=["one"]), "'id' should be text"),
    "a record that is text": ("one", "the record should be {"),
    "an id twice": (record(id="good"), "id is already used by record 0"),
}


@pytest.mark.parametrize(("bad", "reason"), BAD_RECORDS.values(), ids=BAD_RECORDS.keys())
def test_refuses_a_bad_record_by_its_number(
    bad: Any, reason: str, write_records: WriteRecords, image_root: Path
) -> None:
    path = write_records([record(id="good"), bad])
    with pytest.raises(DataError, match=reason) as caught:
        read_llava(path, image_root)
    assert caught.value.source == str(path)
    assert caught.value.location.startswith("record 1")


@pytest.mark.parametrize(
    ("content", "location", "reason"),
    [
        ("[]", "", "holds no record"),
        ("{}", "", "expected a list of records"),
        ('[\n{"id": }]', "line 2, column 8", "is not JSON"),
        (b"\xff[]", "byte 0", "is not UTF-8"),
        (None, "", "cannot be read"),
    ],
    ids=["empty", "no list", "no JSON", "no UTF-8", "missing"],
)
def test_refuses_a_bad_file(
    content: str | bytes | None, location: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "records.json"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=reason) as caught:
        read_llava(path, tmp_path)
    assert (caught.value.source, caught.value.location) == (str(path), location)


@pytest.mark.parametrize("keep", [0, 20, 60])
def test_refuses_a_damaged_image(keep: int, write_records: WriteRecords, image_root: Path) -> None:
    image = image_root / "a.png"
    image.write_bytes(image.read_bytes()[:keep])
    with pytest.raises(DataError, match=re.escape(f"image {image} cannot be decoded")):
        read_llava(write_records([record()]), image_root)


def test_its_errors_survive_pickling(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_llava(tmp_path / "gone.json", tmp_path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_writes_one_record_a_line(tmp_path: Path) -> None:
    conversations = [Conversation(str(i), (), (Turn("human", "?"), Turn("gpt", "!"))) for i in "ab"]
    write_llava(conversations, tmp_path / "out.json")
    lines = (tmp_path / "out.json").read_text().splitlines()
    assert [json.loads(line.rstrip(","))["id"] for line in lines[1:-1]] == ["a", "b"]
