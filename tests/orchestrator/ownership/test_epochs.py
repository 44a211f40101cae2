import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from orchestrator.durable import Store
from orchestrator.ownership import Lease, Ownership, OwnershipLostError, RunOwnedError, claim
from orchestrator.ownership.epochs import last_epoch
from orchestrator.process import process_identity
from orchestrator.store import StoreError
from tests.orchestrator.durable.fakes import FakeClock

LEASE = Lease(ttl_s=30.0, beat_s=3.0)


@dataclass
class World:
    """Drivers of one run on one fake clock."""

    store: Store
    clock: FakeClock = field(default_factory=FakeClock)
    told: list[str] = field(default_factory=list)

    def claim(self) -> Ownership:
        return claim(self.store, "run", lease=LEASE, clock=self.clock, tell=self.told.append)


@pytest.fixture
def world(any_store: Store) -> World:
    return World(any_store)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this process look like one on another host."""

    def go(host: str) -> None:
        identity = process_identity()
        for module in ("ownership.epochs", "process"):
            name = f"orchestrator.{module}.process_identity"
            monkeypatch.setattr(name, lambda: {**identity, "host": host})

    return go


def test_the_first_driver_has_epoch_one(world: World) -> None:
    assert world.claim().epoch == 1
    assert last_epoch(world.store, "run") == 1
    assert last_epoch(world.store, "other") == 0


def test_a_released_run_is_taken_over_at_once(world: World) -> None:
    world.claim().release()
    start_s = world.clock.now_s
    assert world.claim().epoch == 2
    assert world.clock.now_s == start_s


def test_a_second_driver_is_refused_while_the_first_lives(world: World) -> None:
    first = world.claim()
    world.clock.on_sleep = first.beat
    with pytest.raises(RunOwnedError, match=rf"driven by process {os.getpid()} on .* \(epoch 1\)"):
        world.claim()
    first.check()
    assert last_epoch(world.store, "run") == 1


def test_a_silent_driver_is_replaced_after_its_time_to_live(world: World) -> None:
    first = world.claim()
    start_s = world.clock.now_s
    second = world.claim()
    assert second.epoch == 2
    assert LEASE.ttl_s <= world.clock.now_s - start_s <= LEASE.ttl_s + LEASE.beat_s
    assert "waiting up to 30 s" in world.told[0]
    first.beat()
    with pytest.raises(OwnershipLostError, match="epoch 1 no longer owns it: another driver"):
        first.check()
    second.beat()
    second.check()


def test_a_dead_driver_on_another_host_is_waited_for(
    world: World, elsewhere: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.claim()
    monkeypatch.setattr("orchestrator.process._process_start", lambda pid: "never")
    elsewhere("other-host")
    start_s = world.clock.now_s
    assert world.claim().epoch == 2
    assert world.clock.now_s - start_s >= LEASE.ttl_s


def test_a_driver_that_ends_while_watched_lets_the_next_one_in(world: World) -> None:
    first = world.claim()
    world.clock.on_sleep = first.release
    assert world.claim().epoch == 2
    assert world.clock.now_s < 1000 + LEASE.ttl_s


def test_of_two_that_take_over_one_wins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.claim().release()
    monkeypatch.setattr("orchestrator.ownership.epochs.last_epoch", lambda store, run_id: 1)
    assert world.claim().epoch == 2
    with pytest.raises(RunOwnedError, match="epoch 2"):
        world.claim()


def test_a_store_that_is_away_is_forgiven_for_the_time_to_live(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(store)
    first = world.claim()

    def away(*_: Any) -> None:
        raise StoreError(store.url, "", "gone")

    monkeypatch.setattr(type(store), "overwrite", away)
    first.beat()
    first.check()
    world.clock.now_s += LEASE.ttl_s + 1
    first.beat()
    with pytest.raises(OwnershipLostError, match=r"could not be reached: store .* gone"):
        first.check()


def test_a_kept_lease_is_renewed_and_released(store: Store) -> None:
    lease = Lease(ttl_s=5.0, beat_s=0.01)
    owner = claim(store, "run", lease=lease, clock=FakeClock(), tell=print)
    owner.keep()
    while not store.exists("runs/run/epochs/000001/beat"):
        pass
    owner.release()
    owner.check()
    assert store.exists("runs/run/epochs/000001/released")
