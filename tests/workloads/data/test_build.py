import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from workloads.data import Build, Summary, open_shard, read_llava, sources, write_batches
from workloads.errors import DataError


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), level).save(file, "PNG")
    return file.getvalue()


def record(number: int, **changes: Any) -> dict[str, Any]:
    """Every third record has no image."""
    question = "" if number % 3 == 0 else "<image>"
    turns = [{"from": "human", "value": f"{question}What?"}, {"from": "gpt", "value": str(number)}]
    image = {} if number % 3 == 0 else {"image": f"{number % 5}.png"}
    return {"id": f"id-{number}", **image, "conversations": turns, **changes}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(png(number))
    return folder


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PART_RECORDS", 8)


def write_json(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(records))
    return path


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(each)}\n" for each in records))
    return path


def write_parquet(path: Path, records: list[dict[str, Any]]) -> Path:
    pq.write_table(
        pa.Table.from_pylist([{"image": None, **each} for each in records]), path, row_group_size=8
    )
    return path


WRITERS = {"json": write_json, "jsonl": write_lines, "parquet": write_parquet}


def built(build: Build) -> Iterator[pa.RecordBatch]:
    for part in build.parts():
        for batch, _ in build.batches(part):
            yield batch


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_file_gives_the_same_samples(kind: str, tmp_path: Path, images: Path) -> None:
    records = [record(number) for number in range(20)]
    build = Build(str(WRITERS[kind](tmp_path / f"train.{kind}", records)), str(images))
    assert [part.records for part in build.parts()] == [8, 8, 4]
    write_batches(built(build), tmp_path / "train.arrow")
    shard = open_shard(tmp_path / "train.arrow")
    assert [sample.id for sample in shard] == [each["id"] for each in records]
    assert [sample.turns[1].text for sample in shard] == [str(number) for number in range(20)]
    levels = [[image.getpixel((0, 0)) for image in sample.images] for sample in shard]
    assert levels == [[] if number % 3 == 0 else [number % 5] for number in range(20)]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("kind", WRITERS)
def test_parts_can_be_read_in_any_order(kind: str, tmp_path: Path, images: Path) -> None:
    records = [record(number) for number in range(20)]
    build = Build(str(WRITERS[kind](tmp_path / f"train.{kind}", records)), str(images))
    forward = list(built(build))
    backward = [batch for part in reversed(build.parts()) for batch, _ in build.batches(part)]
    assert [batch.to_pylist() for batch in reversed(backward)] == [
        batch.to_pylist() for batch in forward
    ]


@pytest.mark.parametrize("column", ["bytes", "list", "struct", "images"])
def test_parquet_may_hold_the_images_themselves(column: str, tmp_path: Path) -> None:
    content = png(77)
    held: dict[str, Any] = {
        "bytes": {"image": content},
        "list": {"image": [content]},
        "struct": {"image": {"bytes": content, "path": None}},
        "images": {"images": [{"bytes": content, "path": "seven.png"}]},
    }[column]
    records = [{**record(1), "image": None, **held}, {**record(3), **dict.fromkeys(held)}]
    source = write_parquet(tmp_path / "train.parquet", records)
    write_batches(built(Build(str(source), str(tmp_path))), tmp_path / "train.arrow")
    with_image, without = open_shard(tmp_path / "train.arrow")
    assert [image.getpixel((0, 0)) for image in with_image.images] == [77]
    assert without.images == ()


def test_reads_records_and_images_behind_a_url(images: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/set/train.json", json.dumps([record(n) for n in range(4)]).encode())
    for file in images.iterdir():
        memory.pipe_file(f"/set/images/{file.name}", file.read_bytes())
    build = Build("memory://set/train.json", "memory://set/images")
    assert [len(images) for part in build.parts() for _, images in build.read(part)] == [0, 1, 1, 0]
    memory.pipe_file("/set/train.json", json.dumps([record(1, image="../x.png")]).encode())
    with pytest.raises(DataError, match="lies outside the image root memory://set/images"):
        list(built(build))
    memory.pipe_file("/set/train.json", json.dumps([record(1, image="x.png")]).encode())
    with pytest.raises(DataError, match=r"images/x\.png does not exist"):
        list(built(build))


@pytest.mark.parametrize(
    ("url", "reason"),
    [("nowhere://set/train.json", "Protocol not known"), ("memory://none.json", "cannot be read")],
)
def test_refuses_a_url_that_leads_nowhere(url: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        Build(url, "images").parts()
    assert caught.value.source == url


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("kind", WRITERS)
def test_an_id_that_comes_again_in_another_part_is_refused(
    kind: str, tmp_path: Path, images: Path
) -> None:
    records = [record(number) for number in range(20)]
    records[17]["id"] = records[12]["id"] = "id-3"
    build = Build(str(WRITERS[kind](tmp_path / f"train.{kind}", records)), str(images))
    with pytest.raises(DataError, match="id is already used by record 3") as caught:
        build.parts()
    assert caught.value.location == "record 12 ('id-3')"


@pytest.mark.usefixtures("small_parts")
def test_a_fault_in_a_later_part_is_named_by_its_number_in_the_file(
    tmp_path: Path, images: Path
) -> None:
    records = [record(number) for number in range(20)]
    records[13]["image"] = "gone.png"
    build = Build(str(write_json(tmp_path / "train.json", records)), str(images))
    with pytest.raises(DataError, match=r"gone\.png does not exist") as caught:
        list(built(build))
    assert caught.value.location == "record 13 ('id-13')"


def test_bad_images_are_let_in_where_training_replaces_them(tmp_path: Path, images: Path) -> None:
    (images / "1.png").unlink()
    (images / "2.png").write_bytes(b"no image")
    source = str(write_json(tmp_path / "train.json", [record(number) for number in range(10)]))
    with pytest.raises(DataError, match=r"1\.png does not exist"):
        list(built(Build(source, str(images))))
    build = Build(source, str(images), on_bad_image="replace")
    write_batches(built(build), tmp_path / "train.arrow")
    shard = open_shard(tmp_path / "train.arrow")
    faults = []
    for index in range(10):
        try:
            _ = shard[index]
        except DataError as error:
            faults.append((index, error.reason))
    assert faults == [
        (1, "image 1 cannot be decoded: the file was missing or empty"),
        (2, "image 1 cannot be decoded: it is in no format that Pillow knows"),
        (7, "image 1 cannot be decoded: it is in no format that Pillow knows"),
    ]
    summary = Summary()
    for part in build.parts():
        for _, more in build.batches(part):
            summary.add(more)
    assert (summary.conversations, summary.missing_images, summary.text_only) == (10, 1, 4)
    assert summary.images == 5


def test_refuses_a_parquet_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR0")
    with pytest.raises(DataError, match="is not a readable Parquet file"):
        Build(str(tmp_path / "train.parquet"), str(tmp_path)).parts()


def test_refuses_a_json_file_that_should_be_called_jsonl(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "train.json", [record(0)])
    with pytest.raises(DataError, match=r"got dict; name a file \.jsonl"):
        read_llava(path, tmp_path)
