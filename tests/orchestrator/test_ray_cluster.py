from types import SimpleNamespace

import pytest

from orchestrator import ray_cluster
from orchestrator.durable.executor import Capacity
from orchestrator.ray_cluster import ClusterLostError, ClusterView
from tests.orchestrator.durable.fakes import FakeClock


class Watched:
    """A view of a head that answers when the test says so."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.view = ClusterView(patience_s=30.0)
        self.view.close()

    def silence(self, seconds: float) -> None:
        """Look once, after so many seconds without an answer."""
        self._clock.now_s += seconds
        self.view.check()

    def answer(self) -> None:
        self.view._answers += 1
        self.view.check()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    clock = FakeClock()
    monkeypatch.setattr(ray_cluster, "time", clock)
    monkeypatch.setattr(ray_cluster, "_EVERY_S", 3600.0)
    monkeypatch.setattr(ray_cluster, "_ask", lambda: (Capacity(cpus=4), frozenset({"lost"})))
    context = SimpleNamespace(gcs_address="10.0.0.1:6379", get_node_id=lambda: "here")
    monkeypatch.setattr(ray_cluster.ray, "get_runtime_context", lambda: context)
    return Watched(clock)


def test_a_view_tells_what_there_is_and_what_is_gone(watched: Watched) -> None:
    assert watched.view.capacity().cpus == 4
    assert watched.view.lost_nodes == {"lost"}


def test_a_head_that_is_silent_for_too_long_is_lost(watched: Watched) -> None:
    for _ in range(3):
        watched.silence(10.0)
    with pytest.raises(ClusterLostError, match=r"10\.0\.0\.1:6379 has not answered for 30 s: give"):
        watched.silence(10.0)


def test_a_driver_whose_own_node_was_given_up_has_lost_the_cluster(watched: Watched) -> None:
    watched.view.lost_nodes = frozenset({"lost", "here"})
    with pytest.raises(ClusterLostError, match="6379 has lost the driver's node: give"):
        watched.silence(1.0)


def test_a_lost_cluster_leaves_the_run_resumable() -> None:
    assert ClusterLostError("no answer").exit_code == 3


def test_an_answer_ends_the_silence(watched: Watched) -> None:
    for _ in range(5):
        watched.silence(10.0)
        watched.silence(10.0)
        watched.answer()


def test_the_time_in_which_the_driver_itself_was_stopped_is_no_silence(watched: Watched) -> None:
    watched.silence(3600.0)
    watched.silence(1.0)
