"""Drives a run: reuses what is committed, runs the rest, one tick at a time."""

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.durable.artifact import Artifact, open_artifact
from orchestrator.durable.attempt import Task
from orchestrator.durable.errors import ClusterError, DurableError, StepFailedError, StoreError
from orchestrator.durable.events import Observer
from orchestrator.durable.executor import Executor, StartExecutor, check_store_reaches
from orchestrator.durable.failures import Failure, FailureKind, retry_delay_s
from orchestrator.durable.key import JSON
from orchestrator.durable.manifest import Manifest
from orchestrator.durable.ownership import Clock, Lease, Ownership, claim
from orchestrator.durable.planning import PlannedStep, order_steps, plan_step, producers
from orchestrator.durable.record import RunStatus, StepStatus, now, write_spec, write_status
from orchestrator.durable.states import DONE, RUN_MOVES, STEP_MOVES, RunState, StepState, move
from orchestrator.durable.step import Step
from orchestrator.store import Store

_POLL_S = 0.5
_STATUS_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """What a finished run leaves: the manifest of every step."""

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
        redo: Collection[str] = (),
        strict_code: bool = False,
        lease: Lease | None = None,
        clock: Clock = time,
    ) -> None:
        self._run_id, self._store, self._clock = run_id, store, clock
        self._steps = {step.name: step for step in order_steps(steps)}
        self._start_executor, self._observer = start_executor, observer or Observer()
        self._recipe, self._redo, self._strict_code = recipe or {}, redo, strict_code
        self._lease = lease or Lease()
        self._executor: Executor | None = None
        self._ownership: Ownership | None = None
        self._status = RunStatus(run_id, 0, steps={name: StepStatus() for name in self._steps})
        self._status_due_s = clock.monotonic()
        self._results: dict[str, Manifest] = {}
        self._plans: dict[str, PlannedStep] = {}
        self._failures: dict[str, Counter[FailureKind]] = {name: Counter() for name in self._steps}
        self._retry_at_s: dict[str, float] = {}
        self._error: StepFailedError | None = None

    def run(self) -> RunResult:
        """Run to the end.

        Raises:
            StepFailedError: If a step failed for good.
            RunOwnedError: If another driver owns the run.
            OwnershipLostError: If another driver took it over.
            ClusterError: If a step needs more than there is, or nodes do not share the store.
            KeyboardInterrupt: After everything was stopped; the run can be resumed.
        """
        with ExitStack() as leaving:
            self._start(leaving)
            try:
                spec = (self._steps.values(), self._recipe)
                write_spec(self._store, self._run_id, self._status.epoch, *spec)
                while not self.tick(_POLL_S):
                    self._rest()
            except BaseException as error:
                self._stop(error)
                raise
            if self._error is not None:
                self._stop(self._error)
                raise self._error
            self._end(RunState.SUCCEEDED)
        return RunResult(store=self._store, manifests=self._results)

    def _start(self, leaving: ExitStack) -> None:
        """Take ownership of the run; what must be undone, however it ends, goes to ``leaving``."""
        self._ownership = claim(
            self._store,
            self._run_id,
            lease=self._lease,
            clock=self._clock,
            tell=lambda text: self._observer.message("run", text),
        )
        self._status.epoch = self._ownership.epoch
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
        if self._error is None:
            self._settle()
            self._submit()
        self._record()
        if self._in(StepState.RUNNING):
            return False
        return self._error is not None or all(s.state in DONE for s in self._status.steps.values())

    @property
    def status(self) -> RunStatus:
        """Where the run stands."""
        return self._status

    def _in(self, state: StepState) -> list[str]:
        return [name for name, status in self._status.steps.items() if status.state is state]

    def _move(self, name: str, state: StepState) -> StepStatus:
        status = self._status.steps[name]
        status.state = move(STEP_MOVES, status.state, state)
        return status

    def _end(self, state: RunState) -> None:
        self._status.state = move(RUN_MOVES, self._status.state, state)

    def _collect(self, wait_s: float) -> None:
        for outcome in self._executor.poll(wait_s) if self._executor else ():
            if isinstance(outcome.result, Manifest):
                self._move(outcome.step, StepState.SUCCEEDED).finished_at = now()
                self._results[outcome.step] = outcome.result
                self._observer.step_finished(outcome.step, outcome.result)
            else:
                self._fail(outcome.step, outcome.result)

    def _fail(self, name: str, failure: Failure) -> None:
        counts = self._failures[name]
        counts[failure.kind] += 1
        delay_s = retry_delay_s(failure.kind, counts, self._steps[name].retry)
        if self._error is not None:
            delay_s = None
        status = self._move(name, StepState.FAILED if delay_s is None else StepState.BACKOFF)
        status.failure, status.finished_at = f"{failure.error_type}: {failure.message}", now()
        self._observer.step_failed(name, failure, delay_s)
        if delay_s is not None:
            self._retry_at_s[name] = self._clock.monotonic() + delay_s
        elif self._error is None:
            self._error = failure.raised(name)

    def _settle(self) -> None:
        """Reuse or make ready every step whose inputs are there; inputs come first in order."""
        for name in self._in(StepState.WAITING):
            step = self._steps[name]
            if not self._results.keys() >= set(producers(step)):
                continue
            planned = plan_step(
                self._store, step, self._results, redo=self._redo, strict_code=self._strict_code
            )
            self._plans[name] = planned
            self._status.steps[name].key = planned.key.digest
            if planned.manifest is None:
                self._move(name, StepState.READY).reasons = planned.reasons
                continue
            self._move(name, StepState.REUSED)
            self._results[name] = planned.manifest
            self._observer.step_reused(name, planned.manifest)
            for note in planned.reasons:
                self._observer.message(name, f"reused although {note}")

    def _submit(self) -> None:
        now_s = self._clock.monotonic()
        names = [name for name in self._in(StepState.BACKOFF) if self._retry_at_s[name] <= now_s]
        names += self._in(StepState.READY)
        if not names:
            return
        executor = self._executor or self._begin()
        capacity = executor.capacity()
        taken = [self._steps[name].resources for name in self._in(StepState.RUNNING)]
        cpus = capacity.cpus - sum(each.all_cpus for each in taken)
        gpus = capacity.gpus - sum(each.all_gpus for each in taken)
        for name in names:
            needs = self._steps[name].resources
            if needs.all_cpus <= cpus and needs.all_gpus <= gpus:
                cpus, gpus = cpus - needs.all_cpus, gpus - needs.all_gpus
                status = self._move(name, StepState.RUNNING)
                status.attempt, status.started_at = status.attempt + 1, now()
                executor.submit(self._task(name, status.attempt))
                self._observer.step_started(name, status.attempt, status.reasons)

    def _begin(self) -> Executor:
        """Start the executor, and find out before any work what it cannot do."""
        self._executor = self._start_executor(lambda event: event.tell(self._observer))
        capacity = self._executor.capacity()
        check_store_reaches(self._store, capacity.node_ids)
        for name, step in self._steps.items():
            needs = step.resources
            is_done = self._status.steps[name].state in DONE
            if not is_done and (needs.all_cpus > capacity.cpus or needs.all_gpus > capacity.gpus):
                raise ClusterError(
                    f"step {name!r} needs {needs.all_cpus:g} CPUs and {needs.all_gpus:g} GPUs, "
                    f"there are {capacity.cpus:g} and {capacity.gpus:g}: use fewer workers, or "
                    "add machines"
                )
        return self._executor

    def _task(self, name: str, attempt: int) -> Task:
        step, planned = self._steps[name], self._plans[name]
        return Task(
            run_id=self._run_id,
            epoch=self._status.epoch,
            attempt=attempt,
            step=step,
            key=planned.key,
            generation=planned.generation,
            store=self._store,
            inputs={
                name: self._results[source] if isinstance(source, str) else source
                for name, source in step.inputs.items()
            },
        )

    def _rest(self) -> None:
        """Sleep when nothing runs and only a retry's time is awaited."""
        waits = [self._retry_at_s[name] for name in self._in(StepState.BACKOFF)]
        if waits and not self._in(StepState.RUNNING):
            self._clock.sleep(max(0.0, min(_POLL_S, min(waits) - self._clock.monotonic())))

    def _record(self, *, at_once: bool = False) -> None:
        """Write the status now and then. A store that is away for a while stops nobody here."""
        if at_once or self._clock.monotonic() >= self._status_due_s:
            self._status_due_s = self._clock.monotonic() + _STATUS_S
            with suppress(StoreError, OSError):
                write_status(self._store, self._status)

    def _stop(self, error: BaseException) -> None:
        is_failed = isinstance(error, DurableError) and error.exit_code != 3
        self._end(RunState.FAILED if is_failed else RunState.RESUMABLE)
        for name in self._in(StepState.RUNNING):
            self._move(name, StepState.CANCELLED)
        if self._executor is not None:
            self._executor.cancel()

    def _close(self) -> None:
        self._record(at_once=True)
        if self._executor is not None:
            self._executor.close()
