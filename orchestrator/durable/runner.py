"""Drives a run: reuses what is committed, runs the rest, one tick at a time."""

import time
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path

from orchestrator.artifacts.artifact import FAILURE, Artifact, open_artifact
from orchestrator.artifacts.catalogue import Catalogue
from orchestrator.artifacts.key import JSON
from orchestrator.artifacts.manifest import Manifest, committed
from orchestrator.durable.attempt import Task, commit_failure
from orchestrator.durable.board import Board
from orchestrator.durable.errors import (
    DurableError,
    RunCancelledError,
    StepFailedError,
    StoreError,
)
from orchestrator.durable.events import Observer
from orchestrator.durable.executor import (
    Executor,
    StartExecutor,
    check_capacity,
    check_store_reaches,
)
from orchestrator.durable.failures import Failure, FailureKind, retry_delay_s
from orchestrator.durable.gates import is_open, waiting_text
from orchestrator.durable.graph import Graph, items_of, producers
from orchestrator.durable.inflight import InFlight
from orchestrator.durable.ownership import Clock, Lease, Ownership, claim
from orchestrator.durable.planning import PlannedStep, plan_step
from orchestrator.durable.record import RunStatus, Spec, now, write_spec
from orchestrator.durable.schedule import LOOKED_AT, Batch, Schedule
from orchestrator.durable.states import DONE, RunState, StepState
from orchestrator.durable.step import Each, Step
from orchestrator.store import Store

_POLL_S = 0.5
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
        lease: Lease | None = None,
        clock: Clock = time,
    ) -> None:
        self._run_id, self._store, self._clock = run_id, store, clock
        self._graph = Graph(steps)
        self._start_executor, self._observer = start_executor, observer or Observer()
        self._spec = Spec(steps=steps, recipe=recipe or {}, metadata=metadata or {})
        self._redo, self._strict_code = redo, strict_code
        self._lease = lease or Lease()
        self._executor: Executor | None = None
        self._ownership: Ownership | None = None
        self._in_flight: InFlight | None = None
        self._catalogue: Catalogue | None = None
        self._board = Board(store, run_id, self._graph.steps, clock)
        self._look_due_s = clock.monotonic()
        self._undecided = deque(self._graph.free())
        self._results: dict[str, Manifest] = {}
        self._unmade: dict[str, set[str]] = {}
        self._plans: dict[str, PlannedStep] = {}
        self._attempts: dict[str, Task] = {}
        self._schedule = Schedule()
        self._failures: dict[str, Counter[FailureKind]] = {}
        self._retry_at_s: dict[str, float] = {}
        self._stop_at_s: dict[str, float] = {}
        self._error: StepFailedError | None = None

    def run(self) -> RunResult:
        """Run to the end.

        Raises:
            StepFailedError: If a step failed for good.
            RunOwnedError: If another driver owns the run.
            OwnershipLostError: If another driver took it over, or somebody cancelled it.
            ClusterError: If a step needs more than there is, or nodes do not share the store.
            KeyboardInterrupt: After everything was stopped; the run can be resumed.
        """
        with ExitStack() as leaving:
            self._start(leaving)
            try:
                write_spec(self._store, self._run_id, self._board.status.epoch, self._spec)
                while not self.tick(_POLL_S):
                    self._rest()
            except BaseException as error:
                self._stop(error)
                raise
            if self._error is not None:
                self._stop(self._error)
                raise self._error
            self._board.become(RunState.SUCCEEDED)
        kept = {name: found for name, found in self._results.items() if found.is_kept}
        return RunResult(store=self._store, manifests=kept)

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
        self._catalogue = Catalogue(self._store, self._run_id, f"e{epoch:06d}")
        leaving.callback(self._ownership.release)
        leaving.callback(self._close)
        self._ownership.keep()

    def tick(self, wait_s: float = 0.0) -> bool:
        """Take in what ended, decide what can be decided, start what fits; True when all is over.

        Args:
            wait_s: How long to wait for a running step before anything else.
        """
        if self._ownership is not None:
            self._ownership.check()
        self._collect(wait_s)
        self._stop_late()
        if self._error is None:
            self._look()
            self._settle()
            self._submit()
        self._board.record()
        if self._board.has(StepState.RUNNING):
            return False
        return self._error is not None or len(self._results) == len(self._graph.steps)

    @property
    def status(self) -> RunStatus:
        """Where the run stands."""
        return self._board.status

    def _collect(self, wait_s: float) -> None:
        for outcome in self._executor.poll(wait_s) if self._executor else ():
            self._schedule.end(self._graph.steps[outcome.step], outcome.seconds)
            if isinstance(outcome.result, Manifest):
                self._finish(outcome.step, StepState.SUCCEEDED, outcome.result)
            else:
                self._fail(outcome.step, outcome.result)

    def _finish(self, name: str, state: StepState, manifest: Manifest) -> None:
        if [file.path for file in manifest.files] == [FAILURE]:
            state = StepState.CAUGHT
        self._board.move(name, state).finished_at = now()
        self._look_due_s = self._clock.monotonic()
        self._have(name, manifest)
        self._forget(name)
        self._supply(name)
        self._observer.step_finished(name, manifest)

    def _have(self, name: str, manifest: Manifest) -> None:
        """Note a result, and decide next on the steps that waited for it."""
        self._board[name].manifest = manifest.path if manifest.is_kept else ""
        if self._catalogue is not None and manifest.is_kept:
            self._catalogue.add(manifest)
        is_known = name in self._results
        self._results[name] = manifest
        if not is_known:
            self._undecided += self._graph.finish(name)

    def _forget(self, name: str) -> None:
        """Drop what only a step that is not over needs."""
        self._plans.pop(name, None)
        self._attempts.pop(name, None)
        self._failures.pop(name, None)
        self._stop_at_s.pop(name, None)
        if self._in_flight is not None and self._graph.steps[name].checkpoint:
            self._in_flight.end(self._board[name].key)

    def _fail(self, name: str, failure: Failure) -> None:
        step, status = self._graph.steps[name], self._board[name]
        failure = failure.under(step.retry)
        status.failure = f"{failure.error_type}: {failure.message}"
        if step.catch and failure.kind is FailureKind.PERMANENT:
            self._observer.step_failed(name, failure, None)
            manifest = commit_failure(self._attempts[name], failure)
            self._finish(name, StepState.CAUGHT, manifest)
            return
        counts = self._failures.setdefault(name, Counter())
        counts[failure.kind] += 1
        delay_s = retry_delay_s(failure.kind, counts, step.retry)
        if self._error is not None:
            delay_s = None
        self._board.move(name, StepState.FAILED if delay_s is None else StepState.BACKOFF)
        status.finished_at = now()
        self._observer.step_failed(name, failure, delay_s)
        if delay_s is not None:
            self._retry_at_s[name] = self._clock.monotonic() + delay_s
            return
        self._forget(name)
        if self._error is None:
            self._error = failure.raised(name)

    def _stop_late(self) -> None:
        now_s = self._clock.monotonic()
        late = [name for name, at_s in self._stop_at_s.items() if at_s <= now_s]
        if late and self._executor is not None:
            self._executor.cancel(late)
        for name in late:
            del self._stop_at_s[name]
            self._schedule.end(self._graph.steps[name], None)
            timeout_s = self._graph.steps[name].timeout_s
            self._fail(name, Failure.of(TimeoutError(f"no result after {timeout_s:g} s")))

    def _settle(self) -> None:
        """Decide on every step whose inputs are there: reuse it, fan it out, or make it ready."""
        while self._undecided:
            step = self._graph.steps[self._undecided.popleft()]
            if step.fans_out:
                self._expand(step)
                continue
            planned = self._plan(step)
            if step.checkpoint and planned.manifest is not None:
                self._reuse(step.name, planned)
                continue
            self._plans[step.name] = planned
            if planned.manifest is not None and self._graph.consumers(step.name):
                self._board.move(step.name, StepState.STANDBY)
                self._have(step.name, planned.manifest)
            else:
                self._board[step.name].reasons = planned.reasons
                self._demand(step.name)

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

    def _supply(self, name: str) -> None:
        """A result is really there: make those ready that wait for no other."""
        for consumer in self._graph.consumers(name):
            unmade = self._unmade.get(consumer, set())
            unmade.discard(name)
            if not unmade and self._unmade.pop(consumer, None) is not None:
                self._board.move(consumer, StepState.READY)

    def _plan(self, step: Step) -> PlannedStep:
        planned = plan_step(
            self._store,
            step,
            self._results,
            redo=self._redo,
            strict_code=self._strict_code,
            catalogue=self._catalogue,
        )
        self._board[step.name].key = planned.key.digest
        return planned

    def _reuse(self, name: str, planned: PlannedStep) -> None:
        assert planned.manifest is not None
        self._board.move(name, StepState.REUSED)
        self._have(name, planned.manifest)
        self._observer.step_reused(name, planned.manifest)
        for note in planned.reasons:
            self._observer.message(name, f"reused although {note}")

    def _expand(self, step: Step) -> None:
        source = next(each.step for each in step.inputs.values() if isinstance(each, Each))
        before = set(self._graph.steps)
        self._undecided += self._graph.grow(step.name, items_of(self._store, self._results[source]))
        self._board.move(step.name, StepState.EXPANDED)
        for name in self._graph.steps.keys() - before:
            self._board.add(name)

    def _look(self) -> None:
        """See now and then whether what is held up can go on."""
        if self._clock.monotonic() < self._look_due_s:
            return
        self._look_due_s = self._clock.monotonic() + _LOOK_S
        for name in self._board.names(StepState.HELD):
            if self._is_open(name):
                self._board.move(name, StepState.READY)
        for name in self._board.names(StepState.ELSEWHERE):
            planned = self._plan(self._graph.steps[name])
            if planned.manifest is not None:
                self._reuse(name, planned)
            elif not self._in_flight or self._in_flight.begin(planned.key.digest, name):
                self._plans[name] = planned
                self._board.move(name, StepState.READY)

    def _submit(self) -> None:
        names = self._startable()
        if not names:
            return
        executor = self._executor or self._begin()
        steps = (self._graph.steps[name] for name in names)
        candidates = ((step, self._is_patient(step)) for step in steps)
        for batch in self._schedule.choose(candidates, executor.capacity(), self._may_start):
            self._launch(batch, executor)

    def _startable(self) -> list[str]:
        """Steps to start, as far as resources go: those tried before come first."""
        now_s = self._clock.monotonic()
        due = [
            name for name in self._board.names(StepState.BACKOFF) if self._retry_at_s[name] <= now_s
        ]
        for name in due:
            # An attempt may have committed, and its process died before it could say so.
            plan = self._plans[name]
            found = committed(self._store, plan.key) if self._graph.steps[name].checkpoint else None
            if found is not None and found.generation >= plan.generation:
                self._finish(name, StepState.SUCCEEDED, found)
        due = [name for name in due if self._board[name].state is StepState.BACKOFF]
        return due + self._board.names(StepState.READY, LOOKED_AT)

    def _is_patient(self, step: Step) -> bool:
        """Whether it may share a batch: no clock runs, no accelerator waits, nothing failed yet."""
        needs = step.resources
        is_plain = not (needs.gpus or needs.worker_cpus or needs.worker_gpus)
        return is_plain and step.timeout_s is None and not self._board[step.name].attempt

    def _may_start(self, name: str) -> bool:
        """Whether gates are open and no other run makes the same; if not, the step is put aside."""
        if self._board[name].state is not StepState.READY:
            return True
        step = self._graph.steps[name]
        if not self._is_open(name):
            self._board.move(name, StepState.HELD)
            self._observer.message(name, waiting_text(self._run_id, step))
            return False
        key = self._board[name].key
        if step.checkpoint and self._in_flight and not self._in_flight.begin(key, name):
            self._board.move(name, StepState.ELSEWHERE)
            self._observer.message(name, "the same result is being made; waiting for it")
            return False
        return True

    def _is_open(self, name: str) -> bool:
        gate = self._graph.steps[name].gate
        key = self._board[name].key
        return gate is None or is_open(self._store, self._run_id, key, gate)

    def _launch(self, batch: Batch, executor: Executor) -> None:
        for name in batch.steps:
            status = self._board.move(name, StepState.RUNNING)
            status.attempt, status.started_at = status.attempt + 1, now()
            timeout_s = self._graph.steps[name].timeout_s
            if timeout_s is not None:
                self._stop_at_s[name] = self._clock.monotonic() + timeout_s
            self._attempts[name] = self._task(name, status.attempt)
        executor.submit([self._attempts[name] for name in batch.steps])
        for name in batch.steps:
            self._observer.step_started(name, self._board[name].attempt, self._board[name].reasons)

    def _begin(self) -> Executor:
        """Start the executor, and find out before any work what it cannot do."""
        self._executor = self._start_executor(lambda event: event.tell(self._observer))
        capacity = self._executor.capacity()
        check_store_reaches(self._store, capacity.node_ids)
        steps = self._graph.steps.values()
        check_capacity([s for s in steps if self._board[s.name].state not in DONE], capacity)
        return self._executor

    def _task(self, name: str, attempt: int) -> Task:
        step, planned = self._graph.steps[name], self._plans[name]
        return Task(
            run_id=self._run_id,
            epoch=self._board.status.epoch,
            attempt=attempt,
            step=step,
            key=planned.key,
            generation=planned.generation,
            store=self._store,
            inputs={
                name: self._results[source] if isinstance(source, str) else source
                for name, source in step.inputs.items()
                if not isinstance(source, Each)
            },
        )

    def _rest(self) -> None:
        """Sleep when nothing runs and only a time, a person or another run is awaited."""
        held = self._board.has(StepState.HELD) or self._board.has(StepState.ELSEWHERE)
        waits = [self._retry_at_s[name] for name in self._board.names(StepState.BACKOFF)]
        is_busy = self._board.has(StepState.RUNNING) or self._board.has(StepState.READY)
        self._board.become(RunState.WAITING if held and not is_busy else RunState.RUNNING)
        if (waits or held) and not is_busy:
            left_s = min(waits, default=inf) - self._clock.monotonic()
            self._clock.sleep(max(0.0, min(_POLL_S, left_s)))

    def _stop(self, error: BaseException) -> None:
        is_failed = isinstance(error, DurableError) and error.exit_code != 3
        state = RunState.FAILED if is_failed else RunState.RESUMABLE
        self._board.become(RunState.CANCELLED if isinstance(error, RunCancelledError) else state)
        for name in self._board.names(StepState.RUNNING):
            self._board.move(name, StepState.CANCELLED)
        if self._executor is not None:
            self._executor.cancel()

    def _close(self) -> None:
        self._board.record(at_once=True)
        if self._catalogue is not None:
            self._catalogue.flush()
        if self._in_flight is not None:
            self._in_flight.end_all()
        for manifest in self._results.values():
            if not manifest.is_kept and manifest.root:
                with suppress(StoreError, OSError):
                    self._store.delete(manifest.root)
        if self._executor is not None:
            self._executor.close()
