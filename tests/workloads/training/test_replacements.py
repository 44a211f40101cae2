import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from workloads.data import Replacement
from workloads.training import Ranks
from workloads.training.replacements import WithReplacements, all_replaced


class FakeBatches:
    """Keeps replacements in a file of its own name."""

    def __init__(self, *replaced: Replacement) -> None:
        self.replaced = list(replaced)

    def save(self, folder: Path) -> None:
        (folder / "replaced").write_text(str(len(self.replaced)))

    def load(self, folder: Path) -> None:
        self.replaced = self.replaced[: int((folder / "replaced").read_text())]


@dataclass
class OneFolder:
    """A checkpoint store that has one checkpoint."""

    folder: Path
    asked: list[object] = field(default_factory=list)

    def restore(self, layout: str, load: Callable[[Path], None]) -> int | None:
        self.asked.append(layout)
        load(self.folder)
        return 7

    def roll_back(self, step: int, layout: str, load: Callable[[Path], None]) -> int | None:
        self.asked += [step, layout]
        load(self.folder)
        return 7

    def save(
        self,
        step: int,
        layout: str,
        write: Callable[[Path], None],
        *,
        protected: Collection[int] = (),
    ) -> None:
        self.asked += [step, layout, *protected]
        write(self.folder)

    is_uploaded = True

    def finish(self) -> str | None:
        return "the disk is full"


def replacement(step: int, position: int = 0) -> Replacement:
    return Replacement(step, position, f"bad-{step}", f"good-{step}", "is damaged")


@pytest.mark.parametrize("how", ["restore", "roll_back"])
def test_a_checkpoint_brings_back_what_was_replaced_before_it(tmp_path: Path, how: str) -> None:
    batches = FakeBatches(replacement(1))
    store = WithReplacements(OneFolder(tmp_path), batches)  # type: ignore[arg-type]
    store.save(7, "layout", lambda folder: (folder / "weights").touch(), protected=[3])
    assert (tmp_path / "weights").exists()
    assert store.is_uploaded
    assert store.finish() == "the disk is full"
    batches.replaced.append(replacement(9))
    loaded: list[Path] = []
    step = (
        store.restore("layout", loaded.append)
        if how == "restore"
        else store.roll_back(8, "layout", loaded.append)
    )
    assert (step, loaded) == (7, [tmp_path])
    assert batches.replaced == [replacement(1)]


class TwoRanks(Ranks):
    """Gathers what two ranks know, some of it both."""

    def gather(self, value: Sequence[Replacement]) -> list[Sequence[Replacement]]:
        return [value, [replacement(2, 1), replacement(1)]]


def test_what_two_ranks_know_is_listed_once_and_in_the_order_of_training() -> None:
    batches = FakeBatches(replacement(2), replacement(1))
    listed = all_replaced(batches, TwoRanks())  # type: ignore[arg-type]
    assert [(each["step"], each["position"]) for each in listed] == [(1, 0), (2, 0), (2, 1)]
    assert json.loads(json.dumps(listed[0])) == {
        "step": 1,
        "position": 0,
        "sample": "bad-1",
        "by": "good-1",
        "reason": "is damaged",
    }
