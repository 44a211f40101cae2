"""The log of a run, kept in its store: what happened to each step, and when."""

import threading
from contextlib import suppress

from orchestrator.durable import Failure, Manifest, Observer, Store
from orchestrator.durable.record import now
from orchestrator.store import StoreError

_EVERY_S = 2.0


class RunLog(Observer):
    """Writes lines to ``runs/RUN/log`` in pieces: an object of a store cannot grow.

    Args:
        store: Where the run is.
        run_id: Which run.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self._store, self._prefix = store, f"runs/{run_id}/log/{now().replace(':', '')}"
        self._lines: list[str] = []
        self._pieces = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, daemon=True)
        self._thread.start()

    def step_reused(self, step: str, manifest: Manifest) -> None:
        """Say whose result it is."""
        self._say(step, f"reused the result of run {manifest.values.get('run_id')}")

    def step_started(self, step: str, attempt: int, reasons: tuple[str, ...]) -> None:
        """Say why."""
        self._say(step, f"attempt {attempt}: {'; '.join(reasons)}")

    def message(self, step: str, text: str) -> None:
        """Pass it on."""
        self._say(step, text)

    def step_finished(self, step: str, manifest: Manifest) -> None:
        """Say where the result is."""
        self._say(step, f"finished in {manifest.values.get('seconds', 0)} s: {manifest.root}")

    def step_failed(self, step: str, failure: Failure, retry_in_s: float | None) -> None:
        """Say how, with the traceback."""
        then = "for good" if retry_in_s is None else f"next attempt in {retry_in_s:g} s"
        cause = f"{failure.error_type}: {failure.message}"
        self._say(step, f"failed ({failure.kind}, {then}): {cause}\n{failure.traceback_text}")

    def close(self) -> None:
        """Write the rest."""
        self._stopped.set()
        self._thread.join()
        self._write()

    def _say(self, step: str, text: str) -> None:
        with self._lock:
            self._lines.append(f"{now()} {step}: {text.rstrip()}\n")

    def _keep_writing(self) -> None:
        while not self._stopped.wait(_EVERY_S):
            self._write()

    def _write(self) -> None:
        with self._lock:
            lines, self._lines = self._lines, []
        if lines:
            self._pieces += 1
            with suppress(StoreError, OSError):
                data = "".join(lines).encode()
                self._store.create(f"{self._prefix}-{self._pieces:06d}", data, is_durable=False)


def read_log(store: Store, run_id: str) -> str:
    """The log of a run, from its first start on."""
    return "".join(store.read(path).decode() for path in store.list(f"runs/{run_id}/log"))


def read_output(store: Store, run_id: str, step: str) -> dict[str, str]:
    """What the attempts of a step printed, by attempt (``e000001-a001``), the first one first."""
    paths = store.list(f"runs/{run_id}/output/{step}")
    return {
        path.rpartition("/")[2].removesuffix(".txt"): store.read(path).decode() for path in paths
    }
