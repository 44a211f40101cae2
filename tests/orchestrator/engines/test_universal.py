import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from orchestrator.engines import universal
from orchestrator.engines.universal import universal_checkpoint


class Exchange:
    """What ranks of one machine tell each other, when they are threads."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._said: dict[int, Any] = {}
        self._barrier = Barrier(size, timeout=10)

    def gather(self, rank: int, value: Any) -> list[Any]:
        self._said[rank] = value
        self._barrier.wait()
        everyones = [self._said[each] for each in range(self.size)]
        self._barrier.wait()
        return everyones


class Rank:
    def __init__(self, rank: int, exchange: Exchange) -> None:
        self.rank, self._exchange = rank, exchange

    def gather(self, value: Any) -> list[Any]:
        return self._exchange.gather(self.rank, value)


def load(rank: Any, folder: Path) -> str:
    with universal_checkpoint(folder, rank) as copy:
        return (copy / "weights").read_text()


def test_ranks_of_a_machine_read_the_copy_that_the_first_of_them_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def slowly(folder: Path, copy: Path) -> None:
        time.sleep(0.3)
        copy.mkdir()
        made.append((copy / "weights").write_text("universal"))

    monkeypatch.setattr(universal, "_convert", slowly)
    exchange = Exchange(3)
    with ThreadPoolExecutor(3) as pool:
        read = list(pool.map(lambda rank: load(Rank(rank, exchange), tmp_path), range(3)))
    assert read == ["universal"] * 3
    assert len(made) == 1


def test_a_conversion_that_fails_ends_all_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_room(folder: Path, copy: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(universal, "_convert", without_room)
    exchange = Exchange(2)
    with ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(load, Rank(rank, exchange), tmp_path) for rank in range(2))
    assert isinstance(first.exception(), OSError)
    assert "rank 0 could not convert" in str(second.exception())
