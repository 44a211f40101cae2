"""The tracker of a run: an observer that remembers in MLflow what it hears."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from orchestrator.artifacts.manifest import Manifest
from orchestrator.durable.events import Observer
from orchestrator.durable.failures import Failure
from orchestrator.errors import PreflightError
from orchestrator.store import Store
from orchestrator.tracking.errors import TrackingError
from orchestrator.tracking.location import check_reachable, public
from orchestrator.tracking.point import Point
from orchestrator.tracking.records import Records, Status, is_passing
from orchestrator.tracking.result import StepResult
from orchestrator.tracking.session import WHOLE_RUN, RunSession, TrackedRun
from orchestrator.tracking.shortcut import finished_runs
from orchestrator.tracking.writer import BackgroundWriter, Leftover

_CONNECT_S = 30.0
"""How long the first step waits for MLflow to be opened, which takes 4 s on an idle machine."""

_FLUSH_S = 30.0


class Tracker(Protocol):
    """What remembers a run, besides hearing its events as an ``Observer``."""

    def open(self) -> None:
        """Begin to connect, in the background."""

    def figures(self, values: Mapping[str, float]) -> None:
        """Remember the headline figures of the whole run."""

    def close(self, status: Status) -> Leftover:
        """Remember how the run ended; returns what could not be written."""


class MLflowTracker(Observer):
    """Writes a run to MLflow: a parent run, a child per step, and no point twice.

    MLflow is imported and opened in a background thread, at the first step that really runs or
    at `open`; a run in which everything is reused, and was tracked before, does neither.
    The first step waits until MLflow is open, or is slow to; later events never wait for it.

    Args:
        uri: Tracking URI, absolute.
        experiment: Name of the experiment; created where it is missing.
        run: What is tracked.
        store: Where the results of steps are read, for the figures in them.
        tell: Hears one line when MLflow goes away or refuses something.
        check: Asked once, in the background, before anything is written; what it raises ends the
            run at its first step.

    Raises:
        TrackingError: If MLflow cannot be reached; nothing has been created.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        *,
        run: TrackedRun,
        store: Store,
        tell: Callable[[str], None],
        check: Callable[[Records], object] = lambda _: None,
    ) -> None:
        check_reachable(uri)
        self._uri, self._experiment, self._run = uri, experiment, run
        self._store, self._tell, self._check = store, tell, check
        self._writer: BackgroundWriter[RunSession] | None = None
        self._is_ready = False
        self._reused: dict[str, Manifest] = {}

    def open(self) -> None:
        """Begin to connect, in the background; a second call does nothing."""
        if self._writer is not None:
            return
        self._writer = BackgroundWriter(self._connect, is_passing, self._tell)
        self._writer.write(RunSession.describe)
        for step, manifest in self._reused.items():
            self._write_reused(self._writer, step, manifest)

    def step_reused(self, step: str, manifest: Manifest) -> None:
        """Show the step in the run, with the figures of its result."""
        if self._writer is not None:
            self._write_reused(self._writer, step, manifest)
        self._reused[step] = manifest

    def step_started(self, step: str, attempt: int, reasons: tuple[str, ...]) -> None:
        """Open the step's child run.

        Raises:
            PreflightError: At the first step of all, if MLflow cannot be opened or ``check`` fails.
        """
        tags = {"gammaray.attempt": str(attempt), "gammaray.reasons": "; ".join(reasons)}
        self._wait_ready().write(lambda session: session.step_started(step, tags))

    def metrics(self, step: str, at: int, values: Mapping[str, float]) -> None:
        """Queue the points."""
        now = _now_ms()
        points = [Point(key, at, float(value), now) for key, value in values.items()]
        self._wait_ready().points(step, points)

    def step_finished(self, step: str, manifest: Manifest) -> None:
        """Write what the step's files say and close its child run."""
        now = _now_ms()
        self._wait_ready().write(
            lambda session: session.step_finished(step, self._result(manifest), now)
        )

    def step_failed(self, step: str, failure: Failure, retry_in_s: float | None) -> None:
        """Note the failure; close the child run if the step is not tried again."""
        tags = {"gammaray.failure": f"{failure.kind}: {failure.error_type}: {failure.message}"}
        if retry_in_s is None:
            self._wait_ready().write(lambda session: session.step_failed(step, tags))
        else:
            self._wait_ready().write(lambda session: session.tags(step, tags))

    def figures(self, values: Mapping[str, float]) -> None:
        """Write the headline figures of the whole run on its parent run."""
        if self._writer is not None:
            now = _now_ms()
            self._writer.points(
                WHOLE_RUN, [Point(key, 0, float(value), now) for key, value in values.items()]
            )

    def close(self, status: Status, *, timeout_s: float = _FLUSH_S) -> Leftover:
        """Write what waits and how the run ended, for at most ``timeout_s`` seconds."""
        if self._writer is None and self._is_known():
            return Leftover()
        self.open()
        if self._writer is None:
            return Leftover()
        self._writer.write(lambda session: session.close(status))
        return self._writer.close(timeout_s)

    def _is_known(self) -> bool:
        finished = finished_runs(self._uri, self._run.run_id)
        return finished is not None and finished > len(self._reused)

    def _connect(self) -> RunSession:
        try:
            records = Records(self._uri, self._experiment, self._store.url)
            self._check(records)
            return RunSession(records, self._run)
        except Exception as error:
            if self._is_ready:
                self._tell(f"nothing is recorded: {self._not_opened(error)}")
            raise

    def _wait_ready(self) -> BackgroundWriter[RunSession]:
        self.open()
        assert self._writer is not None
        if not self._is_ready:
            try:
                self._writer.wait_connected(_CONNECT_S)
            except TimeoutError:
                # It answered when it was checked, so that it is slow and not away.
                self._tell("MLflow is slow to open; the run goes on and its records wait")
            except Exception as error:
                raise self._not_opened(error) from error
            self._is_ready = True
        return self._writer

    def _not_opened(self, error: Exception) -> PreflightError:
        if isinstance(error, PreflightError):
            return error
        try:
            check_reachable(self._uri)
        except TrackingError as away:
            return away
        return TrackingError(public(self._uri), public(f"cannot be opened: {error}"))

    def _write_reused(
        self, writer: BackgroundWriter[RunSession], step: str, manifest: Manifest
    ) -> None:
        now = _now_ms()
        writer.write(lambda session: session.step_reused(step, self._result(manifest), now))

    def _result(self, manifest: Manifest) -> StepResult:
        return StepResult(self._store, manifest)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
