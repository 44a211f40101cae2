import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.data import json_stream
from workloads.data.json_stream import JsonStream
from workloads.errors import DataError

VALUES: list[Any] = [
    {"a": "é\n", "b": [1, 2.5e3]},
    "zwölf",
    123456,
    [],
    {},
    None,
    True,
    "\U0001f600",
]


def stream(text: str | bytes) -> JsonStream:
    return JsonStream(io.BytesIO(text if isinstance(text, bytes) else text.encode()), "file")


@pytest.fixture(params=[1, 2, 7, 1 << 20], ids=lambda size: f"{size} bytes")
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", request.param)
    return int(request.param)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_reads_a_list_whatever_the_size_of_a_chunk(
    chunk: int, indent: int | None, ascii_only: bool
) -> None:
    text = f" \n{json.dumps(VALUES, indent=indent, ensure_ascii=ascii_only)} \n"
    assert [value for _, value in stream(text).items()] == VALUES


def test_each_value_can_be_read_again_from_where_it_starts(chunk: int) -> None:
    content = json.dumps(VALUES, indent=1, ensure_ascii=False).encode()
    for start, value in stream(content).items():
        assert next(stream(content[start:]).values())[1] == value


def test_reads_a_value_per_line(chunk: int) -> None:
    text = "\n".join(json.dumps(value) for value in VALUES) + "\n\n"
    assert [value for _, value in stream(text).lines()] == VALUES


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda each: st.lists(each), max_leaves=4
)


@settings(max_examples=40)
@given(st.lists(JSON, max_size=4))
def test_reads_what_the_standard_library_writes(values: list[Any]) -> None:
    assert [value for _, value in stream(json.dumps(values)).items()] == values


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ('[\n{"id": }]', "line 2, column 8", "Expecting value"),
        ('[{"id": 1}\n {"id": 2}]', "line 2, column 2", "a ',' or ']' should follow"),
        ('[{"id": 1},\n', "line 2, column 1", "Expecting value"),
        ('[{"id": 1}', "line 1, column 11", "breaks off"),
        ('[{"id": "1]', "line 1, column 9", "Unterminated string"),
        ("[1]\n2", "line 2, column 1", "something follows the list"),
        ("", "line 1, column 1", "Expecting value"),
    ],
)
def test_says_where_a_file_is_no_json(chunk: int, text: str, where: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        list(stream(text).items())
    assert caught.value.location == where


def test_says_which_byte_is_not_utf8(chunk: int) -> None:
    with pytest.raises(DataError, match="is not UTF-8") as caught:
        list(stream('["é", "'.encode() + b'\xff"]').items())
    assert caught.value.location == "byte 8"


def test_a_line_that_does_not_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", 100)
    monkeypatch.setattr(json_stream, "_LONGEST_VALUE", 1000)
    file = io.BytesIO(b'["' + b"x" * 100_000)
    with pytest.raises(DataError, match="Unterminated string"):
        list(JsonStream(file, "file").items())
    assert file.tell() < 2000
