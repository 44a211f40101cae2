"""One writer per run: a chain of epoch-numbered objects that can only be created.

Creating ``epochs/000007`` is taking the run over from epoch 6. Whoever holds an epoch renews a
heartbeat. An observer never compares clocks of two machines: it watches the heartbeat for the
time-to-live on its own monotonic clock. Only on the owner's own host it can do better, and look
whether the process is alive.
"""

import json
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.ownership.errors import OwnershipLostError, RunCancelledError, RunOwnedError
from orchestrator.process import is_dead, process_identity
from orchestrator.store import Store, StoreError

_OWNER, _ANNOUNCED = "owner.json", "announced.json"


class Clock(Protocol):
    """What of the ``time`` module is needed here."""

    def monotonic(self) -> float:
        """Seconds from any start; never goes back."""

    def sleep(self, seconds: float, /) -> None:
        """Wait."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """How long a silent owner is believed, and how often a living one speaks, in seconds."""

    ttl_s: float = 30.0
    beat_s: float = 3.0


class Ownership:
    """The right to drive a run, held until another driver creates the next epoch."""

    def __init__(self, store: Store, run_id: str, epoch: int, lease: Lease, clock: Clock) -> None:
        self.run_id, self.epoch = run_id, epoch
        self._store, self._lease, self._clock = store, lease, clock
        self._beats = 0
        self._last_beat_s = clock.monotonic()
        self._lost: OwnershipLostError | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)

    def beat(self) -> None:
        """Renew the lease or notice its loss; a store that is away is forgiven for a while."""
        try:
            if self._store.exists(epoch_path(self.run_id, self.epoch + 1, _OWNER)):
                self._lost = OwnershipLostError(self.run_id, self.epoch, "another driver took over")
                return
            if self._store.exists(epoch_path(self.run_id, self.epoch, "cancel")):
                reason = "the same command continues it"
                self._lost = RunCancelledError(self.run_id, self.epoch, reason)
                return
            self._beats += 1
            self._store.overwrite(epoch_path(self.run_id, self.epoch, "beat"), b"%d" % self._beats)
            self._last_beat_s = self._clock.monotonic()
        except (StoreError, OSError) as error:
            if self._clock.monotonic() - self._last_beat_s > self._lease.ttl_s:
                reason = f"the store could not be reached: {error}"
                self._lost = OwnershipLostError(self.run_id, self.epoch, reason)

    def check(self) -> None:
        """Raise OwnershipLostError if a heartbeat found the run in other hands."""
        if self._lost is not None:
            raise self._lost

    def keep(self) -> None:
        """Renew the lease from a thread until ``release``."""
        self._thread.start()

    def release(self) -> None:
        """Let the next driver in without a wait."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        with suppress(StoreError, OSError):
            self._store.create(epoch_path(self.run_id, self.epoch, "released"), b"")

    def _keep_beating(self) -> None:
        while self._lost is None and not self._stopped.wait(self._lease.beat_s):
            self.beat()


def claim(
    store: Store, run_id: str, *, lease: Lease, clock: Clock, tell: Callable[[str], None]
) -> Ownership:
    """Become the one driver of a run.

    Args:
        store: Where the run is.
        run_id: Which run.
        lease: How long a silent owner is waited for.
        clock: Time, for tests.
        tell: Told before such a wait.

    Raises:
        RunOwnedError: If another driver lives, or was faster.
        StoreError: If the store could not tell two drivers apart.
    """
    store.check_create_only()
    last = last_epoch(store, run_id)
    if last and not is_abandoned(store, run_id, last):
        owner = describe_owner(store, run_id, last)
        tell(f"run {run_id} was left by {owner}; waiting up to {lease.ttl_s:g} s for a sign of it")
        _watch(store, run_id, last, lease, clock)
    record = json.dumps(process_identity() | {"nonce": uuid.uuid4().hex}).encode()
    if not store.create(epoch_path(run_id, last + 1, _OWNER), record):
        raise RunOwnedError(run_id, describe_owner(store, run_id, last + 1))
    return Ownership(store, run_id, last + 1, lease, clock)


def announce(store: Store, run_id: str, epoch: int, pid: int) -> None:
    """Note that a process of this machine was started to become the owner of ``epoch``."""
    store.overwrite(
        epoch_path(run_id, epoch, _ANNOUNCED), json.dumps(process_identity(pid)).encode()
    )


def newest_epoch(store: Store, run_id: str) -> int:
    """The epoch that was announced, if its owner is still to come, and the last one otherwise."""
    last = last_epoch(store, run_id)
    return last + 1 if store.exists(epoch_path(run_id, last + 1, _ANNOUNCED)) else last


def last_epoch(store: Store, run_id: str) -> int:
    """The highest epoch of a run, 0 if nobody ever drove it."""
    owners = [path for path in store.list(f"runs/{run_id}/epochs") if path.endswith("/owner.json")]
    return max((int(path.split("/")[-2]) for path in owners), default=0)


def is_abandoned(store: Store, run_id: str, epoch: int) -> bool:
    """Whether it is certain that the owner of ``epoch`` will not act again."""
    is_released = store.exists(epoch_path(run_id, epoch, "released"))
    return is_released or is_dead(_owner(store, run_id, epoch))


def describe_owner(store: Store, run_id: str, epoch: int) -> str:
    """Say who holds an epoch, for a person."""
    owner = _owner(store, run_id, epoch)
    return f"process {owner.get('pid')} on {owner.get('host')} (epoch {epoch})"


def _watch(store: Store, run_id: str, epoch: int, lease: Lease, clock: Clock) -> None:
    """Return when the owner's heartbeat stood still for the whole time-to-live."""
    first, start_s = read_beat(store, run_id, epoch), clock.monotonic()
    while clock.monotonic() - start_s < lease.ttl_s:
        clock.sleep(min(lease.beat_s, lease.ttl_s) / 2)
        if is_abandoned(store, run_id, epoch):
            return
        if read_beat(store, run_id, epoch) != first:
            raise RunOwnedError(run_id, describe_owner(store, run_id, epoch))


def read_beat(store: Store, run_id: str, epoch: int) -> bytes:
    """What the owner of an epoch last said; only a change of it means something."""
    try:
        return store.read(epoch_path(run_id, epoch, "beat"))
    except FileNotFoundError:
        return b""


def _owner(store: Store, run_id: str, epoch: int) -> dict[str, Any]:
    path = epoch_path(run_id, epoch, _OWNER)
    if not store.exists(path):
        path = epoch_path(run_id, epoch, _ANNOUNCED)
    try:
        owner = json.loads(store.read(path))
    except ValueError as error:
        raise StoreError(store.url, path, "is not an owner's record; remove it") from error
    return dict(owner)


def epoch_path(run_id: str, epoch: int, name: str) -> str:
    """Where in the store an object of one epoch of a run is."""
    return f"runs/{run_id}/epochs/{epoch:06d}/{name}"
