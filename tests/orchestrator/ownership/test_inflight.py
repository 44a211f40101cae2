import json
import threading

from orchestrator.durable import InProcessExecutor, Runner
from orchestrator.ownership import InFlight, Lease, Ownership, claim
from orchestrator.store import Store
from tests.orchestrator.durable.fakes import FakeClock, Listener, Steps

KEY = "ab" * 32
LEASE = Lease(ttl_s=30.0, beat_s=3.0)


def own(store: Store, run_id: str, clock: FakeClock) -> tuple[Ownership, InFlight]:
    ownership = claim(store, run_id, lease=LEASE, clock=clock, tell=print)
    return ownership, InFlight(store, run_id, ownership.epoch, LEASE, clock)


def test_a_key_is_one_runs_until_it_lets_go(any_store: Store) -> None:
    clock = FakeClock()
    _, one = own(any_store, "one", clock)
    _, two = own(any_store, "two", clock)
    assert one.begin(KEY, "a")
    assert one.begin(KEY, "a")
    assert not one.begin(KEY, "b"), "two steps of one run may have the same key"
    assert not two.begin(KEY, "a")
    two.end(KEY)
    assert not two.begin(KEY, "a"), "only the one who has it lets go"
    one.end_all()
    assert two.begin(KEY, "a")


def test_a_run_that_ended_is_not_waited_for(store: Store) -> None:
    clock = FakeClock()
    ownership, one = own(store, "one", clock)
    _, two = own(store, "two", clock)
    assert one.begin(KEY, "a")
    ownership.release()
    assert two.begin(KEY, "a")


def test_a_silent_run_on_another_host_is_waited_for_as_long_as_its_lease(store: Store) -> None:
    clock = FakeClock()
    ownership, one = own(store, "one", clock)
    path = "runs/one/epochs/000001/owner.json"
    store.overwrite(path, json.dumps(json.loads(store.read(path)) | {"host": "other"}).encode())
    _, two = own(store, "two", clock)
    ownership.beat()
    assert one.begin(KEY, "a")
    assert not two.begin(KEY, "a")
    clock.sleep(29)
    assert not two.begin(KEY, "a")
    clock.sleep(2)
    assert two.begin(KEY, "a")


def test_two_runs_that_need_the_same_step_make_it_once(steps: Steps) -> None:
    """Two real drivers at the same time; the second finds the first at it, and waits."""
    is_running, may_end = threading.Event(), threading.Event()

    class Slow(InProcessExecutor):
        def poll(self, wait_s: float) -> list[object]:  # type: ignore[override]
            if self._queue:
                is_running.set()
                may_end.wait()
            return super().poll(wait_s)  # type: ignore[return-value]

    class Waiting(Listener):
        def message(self, step: str, text: str) -> None:
            super().message(step, text)
            if "being made" in text:
                may_end.set()

    first = Runner("one", steps.chain(), steps.store, start_executor=Slow)
    thread = threading.Thread(target=first.run)
    thread.start()
    assert is_running.wait(30)
    listener = Waiting()
    Runner(
        "two", steps.chain(), steps.store, start_executor=InProcessExecutor, observer=listener
    ).run()
    thread.join()
    assert sorted(steps.ran()) == ["a", "b", "c"]
    assert "a says the same result is being made; waiting for it" in listener.heard
    assert steps.store.list("inflight") == []
