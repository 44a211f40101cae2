from pathlib import Path

import pytest

from orchestrator.engines.exchange import Exchange


@pytest.fixture
def remote() -> Exchange:
    return Exchange(store_url="memory://exchange", prefix="checkpoints/key/files")


def test_only_a_store_that_is_elsewhere_needs_an_exchange(tmp_path: Path, remote: Exchange) -> None:
    assert remote.is_needed
    assert not Exchange(store_url=str(tmp_path), prefix="files").is_needed


def test_a_folder_arrives_as_it_was_sent(tmp_path: Path, remote: Exchange) -> None:
    (tmp_path / "sent" / "model").mkdir(parents=True)
    (tmp_path / "sent" / "model" / "config.json").write_text("{}")
    (tmp_path / "sent" / "history.json").write_text("[]")
    remote.send(tmp_path / "sent", "result")
    (tmp_path / "sent" / "history.json").unlink()
    remote.send(tmp_path / "sent", "result")
    remote.fetch("result", tmp_path / "fetched")
    files = [path for path in (tmp_path / "fetched").rglob("*") if path.is_file()]
    assert files == [tmp_path / "fetched" / "model" / "config.json"]


def test_a_single_file_arrives_under_its_name(tmp_path: Path, remote: Exchange) -> None:
    (tmp_path / "train.arrow").write_bytes(b"rows")
    remote.send(tmp_path / "train.arrow", "shard")
    remote.fetch("shard", tmp_path / "here")
    assert (tmp_path / "here" / "train.arrow").read_bytes() == b"rows"
