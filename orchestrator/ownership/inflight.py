"""What is being made right now, so that two runs that need the same result make it once.

Only a courtesy between drivers: results are safe without it, because a key's first commit wins.
So the objects need not outlast a power cut, and a driver that died is noticed late, not never.
Quick steps that follow another one in the same place are not announced: their keys are known only
when they start, a moment before they end.
"""

import json
from contextlib import suppress

from orchestrator.ownership.epochs import Clock, Lease, is_abandoned, last_epoch, read_beat
from orchestrator.store import Store, discard


class InFlight:
    """The keys that one owner of a run is working on."""

    def __init__(self, store: Store, run_id: str, epoch: int, lease: Lease, clock: Clock) -> None:
        self._store, self._lease, self._clock = store, lease, clock
        self._me = {"run_id": run_id, "epoch": epoch}
        self._beats: dict[tuple[str, int], tuple[bytes, float]] = {}
        self._mine: dict[str, tuple[str, int]] = {}

    def begin(self, key: str, step: str) -> bool:
        """Whether ``step`` of this run is to make the result of ``key``.

        If not, another run is at it, or another step of this one that has the same key.
        """
        if key in self._mine:
            return self._mine[key][0] == step
        record, number = json.dumps(self._me).encode(), 1
        while not self._store.create(_path(key, number), record, is_durable=False):
            with suppress(FileNotFoundError, ValueError):  # it may just be ending
                if self._is_alive(**json.loads(self._store.read(_path(key, number)))):
                    return False
            number += 1
        self._mine[key] = step, number
        return True

    def end(self, key: str) -> None:
        """Let others go on: the result is there, or this run gave up."""
        if key in self._mine:
            _, last = self._mine.pop(key)
            for number in range(last, 0, -1):
                discard(self._store, _path(key, number))

    def end_all(self) -> None:
        """Give up what is left."""
        for key in [*self._mine]:
            self.end(key)

    def _is_alive(self, run_id: str, epoch: int) -> bool:
        if last_epoch(self._store, run_id) != epoch or is_abandoned(self._store, run_id, epoch):
            return False
        beat = read_beat(self._store, run_id, epoch)
        now_s = self._clock.monotonic()
        last, since_s = self._beats.get((run_id, epoch), (None, now_s))
        if beat != last:
            self._beats[run_id, epoch] = (beat, now_s)
            return True
        return now_s - since_s <= self._lease.ttl_s


def _path(key: str, number: int) -> str:
    """Of the ``number``-th that made it: whoever died is followed by the next."""
    return f"inflight/{key}.{number:06d}"
