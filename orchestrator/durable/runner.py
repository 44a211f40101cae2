"""Drives a run: reuses what is committed, runs the rest, one tick at a time."""

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import inf
from pathlib import Path

from orchestrator.artifacts.artifact import FAILURE, Artifact, open_artifact
from orchestrator.artifacts.catalogue import Catalogue
from orchestrator.artifacts.key import JSON
from orchestrator.artifacts.manifest import Manifest
from orchestrator.durable.attempts import Attempts
from orchestrator.durable.board import Board
from orchestrator.durable.errors import TimeIsUpError
from orchestrator.durable.events import Observer
from orchestrator.durable.executor import StartExecutor
from orchestrator.durable.gates import is_open, waiting_text
from orchestrator.durable.graph import producers
from orchestrator.durable.planning import FannedOut, PlannedStep, Planner
from orchestrator.durable.record import RunStatus, Spec, now, write_spec
from orchestrator.durable.states import DONE, RunState, StepState
from orchestrator.durable.step import Step
from orchestrator.ownership import Clock, InFlight, Lease, Ownership, RunCancelledError, claim
from orchestrator.store import DurableError, Store, discard

_POLL_S = 0.5
_GRACE_S = 60.0
"""For steps to save themselves after the time at which the run is to stop."""

_LOOK_S = 1.0
"""Between two looks at gates, and at results that other runs are making."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """What a finished run leaves: the manifest of every step whose result is kept."""

    store: Store
    manifests: Mapping[str, Manifest]

    def artifact(self, step: str, scratch: Path) -> Artifact:
        """Open a step's result; a remote store's files are copied below ``scratch``."""
        return open_artifact(self.store, self.manifests[step], scratch)


class Runner:
    """One driver of one run.

    Independent steps run at the same time when their declared resources fit, in the order
    given. After a step failed for good no other starts; those that run are finished first.

    Args:
        run_id: Same id, same run: finished steps are reused by key, whoever ran them.
        steps: What to do.
        store: Where results and the run's record are kept.
        start_executor: Makes the executor when the first step really has to run.
        observer: Who listens.
        recipe: Resolved values of the run, recorded beside it.
        metadata: Whatever else is to be recorded with them.
        redo: Steps that run again even if committed, as a next generation.
        strict_code: Whether the source of a step's module is part of its key.
        stop_at_s: When to stop, in seconds since the epoch: nothing starts after it, and what
            runs has a minute to save itself.
        lease: How ownership of the run expires.
        clock: Time, for tests.

    Raises:
        StepError: If the steps cannot be ordered.
    """

    def __init__(
        self,
        run_id: str,
        steps: Sequence[Step],
        store: Store,
        *,
        start_executor: StartExecutor,
        observer: Observer | None = None,
        recipe: Mapping[str, JSON] | None = None,
        metadata: Mapping[str, JSON] | None = None,
        redo: Collection[str] = (),
        strict_code: bool = False,
        stop_at_s: float | None = None,
        lease: Lease | None = None,
        clock: Clock = time,
    ) -> None:
        self._run_id, self._store, self._clock = run_id, store, clock
        self._observer, self._lease = observer or Observer(), lease or Lease()
        self._spec = Spec(steps=steps, recipe=recipe or {}, metadata=metadata or {})
        left_s = inf if stop_at_s is None else stop_at_s - time.time()
        self._stop_s = clock.monotonic() + left_s
        self._ownership: Ownership | None = None
        self._in_flight: InFlight | None = None
        self._planner = Planner(store, steps, redo=redo, strict_code=strict_code)
        self._graph, self._results = self._planner.graph, self._planner.results
        self._board = Board(store, run_id, self._graph.steps, clock)
        self._attempts = Attempts(
            store, self._planner, self._board, self._observer, clock, start_executor, stop_at_s
        )
        self._unmade: dict[str, set[str]] = {}
        self._look_due_s = clock.monotonic()

    def run(self) -> RunResult:
        """Run to the end.

        Raises:
            StepFailedError: If a step failed for good.
            RunOwnedError: If another driver owns the run.
            OwnershipLostError: If another driver took it over, or somebody cancelled it.
            ClusterError: If a step needs more than there is, or nodes do not share the store.
            TimeIsUpError: If it was to stop before it was done.
            KeyboardInterrupt: After everything was stopped; the run can be resumed.
        """
        with ExitStack() as leaving:
            self._start(leaving)
            try:
                write_spec(self._store, self._run_id, self._board.status.epoch, self._spec)
                while not self.tick(_POLL_S):
                    self._rest()
                self._attempts.check()
            except BaseException as error:
                self._stop(error)
                raise
            self._board.become(RunState.SUCCEEDED)
        kept = {name: found for name, found in self._results.items() if found.is_kept}
        return RunResult(store=self._store, manifests=kept)

    def tick(self, wait_s: float = 0.0) -> bool:
        """Take in what ended, decide what can be decided, start what fits; True when all is over.

        Args:
            wait_s: How long to wait for a running step before anything else.
        """
        if self._ownership is not None:
            self._ownership.check()
        for name, manifest in self._attempts.ended(wait_s):
            self._finish(name, manifest)
        late_s = self._clock.monotonic() - self._stop_s
        if not self._attempts.has_failed and late_s < 0:
            self._look()
            self._settle()
            self._attempts.start(self._may_start)
        self._board.record()
        if self._board.has(StepState.RUNNING) and late_s < _GRACE_S:
            return False
        if self._attempts.has_failed:
            return True
        # A result may be there whose attempt said that it failed.
        is_all_there = len(self._results) == len(self._graph.steps)
        if is_all_there and not self._board.has(StepState.BACKOFF):
            return True
        if late_s >= 0:
            raise TimeIsUpError(self._run_id)
        return False

    @property
    def status(self) -> RunStatus:
        """Where the run stands."""
        return self._board.status

    def _start(self, leaving: ExitStack) -> None:
        """Take ownership of the run; what must be undone, however it ends, goes to ``leaving``."""
        self._ownership = claim(
            self._store,
            self._run_id,
            lease=self._lease,
            clock=self._clock,
            tell=lambda text: self._observer.message("run", text),
        )
        epoch = self._board.status.epoch = self._ownership.epoch
        self._in_flight = InFlight(self._store, self._run_id, epoch, self._lease, self._clock)
        self._planner.catalogue = Catalogue(self._store, self._run_id, f"e{epoch:06d}")
        leaving.callback(self._ownership.release)
        leaving.callback(self._close)
        self._ownership.keep()

    def _settle(self) -> None:
        """Decide on every step whose inputs are there: reuse it, fan it out, or make it ready."""
        for found in self._planner.decide():
            if isinstance(found, FannedOut):
                self._board.move(found.name, StepState.EXPANDED)
                for name in found.steps:
                    self._board.add(name)
            elif self._board[found.name].state is StepState.WAITING:
                self._board[found.name].key = found.key.digest
                if found.action == "reuse":
                    self._reuse(found)
                else:
                    self._ready(found)

    def _ready(self, planned: PlannedStep) -> None:
        """Let a step run, or stand by if its result is not kept and nobody needs it so far."""
        self._attempts.plan(planned)
        if planned.name in self._results:
            self._board.move(planned.name, StepState.STANDBY)
        else:
            self._board[planned.name].reasons = planned.reasons
            self._demand(planned.name)

    def _demand(self, name: str) -> None:
        """A step must run: make it ready, or first what it takes and nobody needed so far."""
        demanded = [name]
        while demanded:
            name = demanded.pop()
            if self._board[name].state not in (StepState.WAITING, StepState.STANDBY):
                continue
            found = producers(self._graph.steps[name])
            unmade = {source for source in found if self._board[source].state not in DONE}
            if unmade:
                self._unmade[name] = unmade
                demanded += sorted(unmade)
            self._board.move(name, StepState.UNSUPPLIED if unmade else StepState.READY)

    def _reuse(self, planned: PlannedStep) -> None:
        assert planned.manifest is not None
        self._board.move(planned.name, StepState.REUSED)
        self._have(planned.name, planned.manifest)
        self._observer.step_reused(planned.name, planned.manifest)
        for note in planned.reasons:
            self._observer.message(planned.name, f"reused although {note}")

    def _finish(self, name: str, manifest: Manifest) -> None:
        """Take in what a step made, and make those ready that waited for it alone."""
        is_failure = [file.path for file in manifest.files] == [FAILURE]
        status = self._board.move(name, StepState.CAUGHT if is_failure else StepState.SUCCEEDED)
        status.finished_at, status.key = now(), manifest.key.digest
        self._look_due_s = self._clock.monotonic()
        self._have(name, manifest)
        self._attempts.forget(name)
        if self._in_flight is not None:
            self._in_flight.end(status.key)
        for consumer in self._graph.consumers(name):
            unmade = self._unmade.get(consumer, set())
            unmade.discard(name)
            if not unmade and self._unmade.pop(consumer, None) is not None:
                self._board.move(consumer, StepState.READY)
        self._observer.step_finished(name, manifest)

    def _have(self, name: str, manifest: Manifest) -> None:
        self._planner.note(name, manifest)
        if manifest.is_kept:
            self._board[name].manifest = manifest.path
            if self._planner.catalogue is not None:
                self._planner.catalogue.add(manifest)

    def _look(self) -> None:
        """See now and then whether what is held up can go on."""
        if self._clock.monotonic() < self._look_due_s:
            return
        self._look_due_s = self._clock.monotonic() + _LOOK_S
        for name in self._board.names(StepState.HELD):
            if self._is_open(name):
                self._board.move(name, StepState.READY)
        for name in self._board.names(StepState.ELSEWHERE):
            planned = self._planner.plan(self._graph.steps[name])
            if planned.action == "reuse":
                self._reuse(planned)
            elif not self._in_flight or self._in_flight.begin(planned.key.digest, name):
                self._attempts.plan(planned)
                self._board.move(name, StepState.READY)

    def _may_start(self, name: str) -> bool:
        """Whether gates are open and no other run makes the same; if not, the step is put aside."""
        if self._board[name].state is not StepState.READY:
            return True
        step, key = self._graph.steps[name], self._board[name].key
        if not self._is_open(name):
            self._board.move(name, StepState.HELD)
            self._observer.message(name, waiting_text(self._run_id, step))
            return False
        if step.checkpoint and self._in_flight and not self._in_flight.begin(key, name):
            self._board.move(name, StepState.ELSEWHERE)
            self._observer.message(name, "the same result is being made; waiting for it")
            return False
        return True

    def _is_open(self, name: str) -> bool:
        gate, key = self._graph.steps[name].gate, self._board[name].key
        return gate is None or is_open(self._store, self._run_id, key, gate)

    def _rest(self) -> None:
        """Sleep when nothing runs and only a time, a person or another run is awaited."""
        held = self._board.has(StepState.HELD) or self._board.has(StepState.ELSEWHERE)
        is_busy = self._board.has(StepState.RUNNING) or self._board.has(StepState.READY)
        self._board.become(RunState.WAITING if held and not is_busy else RunState.RUNNING)
        retry_s = self._attempts.next_retry_s()
        if (held or retry_s is not None) and not is_busy:
            left_s = (inf if retry_s is None else retry_s) - self._clock.monotonic()
            self._clock.sleep(max(0.0, min(_POLL_S, left_s)))

    def _stop(self, error: BaseException) -> None:
        is_failed = isinstance(error, DurableError) and error.exit_code != 3
        state = RunState.FAILED if is_failed else RunState.RESUMABLE
        self._board.become(RunState.CANCELLED if isinstance(error, RunCancelledError) else state)
        self._attempts.cancel()

    def _close(self) -> None:
        self._board.record(at_once=True)
        if self._planner.catalogue is not None:
            self._planner.catalogue.flush()
        if self._in_flight is not None:
            self._in_flight.end_all()
        for manifest in self._results.values():
            if not manifest.is_kept and manifest.root:
                discard(self._store, manifest.root)
        self._attempts.close()
