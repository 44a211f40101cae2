import pytest

from orchestrator.artifacts import catalogue as module
from orchestrator.artifacts.catalogue import Catalogue
from orchestrator.artifacts.manifest import committed_for
from tests.orchestrator.durable.conftest import quick_disk, steps, store
from tests.orchestrator.durable.fakes import Steps

__all__ = ["quick_disk", "steps", "store"]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of which the manifests were opened one by one."""
    keys: list[str] = []
    real = module.committed
    monkeypatch.setattr(module, "committed", lambda s, key: keys.append(key.name) or real(s, key))
    return keys


def test_a_resumed_run_opens_no_manifest(steps: Steps, opened: list[str]) -> None:
    steps.run(steps.chain())
    assert opened, "nothing was written down yet"
    opened.clear()
    assert steps.run(steps.chain(), start_executor=None).heard == [
        "a reused",
        "b reused",
        "c reused",
    ]
    assert opened == []


def test_it_lists_all_results_of_a_run(steps: Steps) -> None:
    steps.run(steps.chain())
    found = Catalogue(steps.store, "run").manifests()
    assert found == [committed_for(steps.store, name)[0] for name in "abc"]
    assert Catalogue(steps.store, "other").manifests() == []


def test_a_result_that_was_removed_is_made_again(steps: Steps) -> None:
    steps.run(steps.chain())
    (manifest,) = committed_for(steps.store, "b")
    steps.store.delete(manifest.path)
    steps.run(steps.chain())
    assert steps.ran() == ["a", "b", "c", "b"]
    assert steps.run(steps.chain(), start_executor=None).events_of("reused") == [
        "a reused",
        "b reused",
        "c reused",
    ]


def test_a_damaged_piece_is_ignored(steps: Steps, opened: list[str]) -> None:
    steps.run(steps.chain())
    (piece,) = steps.store.list("runs/run/results")
    steps.store.overwrite(piece, steps.store.read(piece).replace(b'"size": ', b'"size": 1'))
    opened.clear()
    steps.run(steps.chain())
    assert opened == ["a", "b", "c"]
    assert steps.ran() == ["a", "b", "c"]


def test_only_what_is_new_is_written_down(steps: Steps) -> None:
    steps.run(steps.chain())
    steps.run(steps.chain(rate=2))
    pieces = steps.store.list("runs/run/results")
    assert [len(steps.store.read(piece).splitlines()) - 1 for piece in pieces] == [3, 2]
