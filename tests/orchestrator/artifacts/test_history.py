"""How a step differs from earlier ones, said without reading everything for each of many steps."""

import pytest

from orchestrator.artifacts import manifest as manifests
from orchestrator.artifacts.history import History
from orchestrator.artifacts.key import StepKey
from orchestrator.artifacts.manifest import Manifest, commit
from orchestrator.store import Store, open_store


def key(**params: int) -> StepKey:
    return StepKey(name="double", version=1, params=params, inputs={"model": "ab" * 32})


@pytest.fixture
def store() -> Store:
    """200 results of one step, as a fan-out leaves them."""
    store = open_store("memory://history")
    for item in range(200):
        made = key(item=item, rate=1)
        commit(
            store,
            Manifest(key=made, generation=0, root="x", files=(), measurements=(), values={}),
        )
    return store


def test_among_many_results_that_of_the_same_item_is_the_nearest(store: Store) -> None:
    history = History(store)
    for item in (0, 77, 199):
        assert history.difference(key(item=item, rate=2)) == ("double: rate 1 -> 2",)


def test_what_is_new_is_compared_with_any(store: Store) -> None:
    (line,) = History(store).difference(key(item=1000, rate=1))
    assert line.endswith("-> 1000")
    assert History(store).difference(StepKey(name="x", version=1, params={}, inputs={})) == ()


def test_each_result_is_read_once_however_many_steps_are_compared(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = manifests.read_manifest

    def counted(store: Store, path: str) -> Manifest:
        read.append(path)
        return original(store, path)

    monkeypatch.setattr(manifests, "read_manifest", counted)
    history = History(store)
    for item in range(50):
        history.difference(key(item=item, rate=2))
    assert len(read) == 200
