"""What runs: starts attempts, takes in how they end, tries again what passes, stops the late."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from orchestrator.artifacts.manifest import Manifest, committed
from orchestrator.durable.attempt import Task, commit_failure
from orchestrator.durable.board import Board
from orchestrator.durable.errors import StepFailedError
from orchestrator.durable.events import Observer
from orchestrator.durable.executor import (
    Executor,
    StartExecutor,
    check_capacity,
    check_store_reaches,
)
from orchestrator.durable.failures import Failure, FailureKind, retry_delay_s
from orchestrator.durable.graph import producers
from orchestrator.durable.planning import PlannedStep, Planner
from orchestrator.durable.record import now
from orchestrator.durable.schedule import LOOKED_AT, Batch, Schedule
from orchestrator.durable.states import DONE, StepState
from orchestrator.durable.step import Each, Step
from orchestrator.ownership import Clock
from orchestrator.store import Store


class Attempts:
    """The attempts of one driver.

    Args:
        store: Where results are kept.
        planner: Knows the steps, and what they take.
        board: Where the steps stand.
        observer: Who listens.
        clock: Time, for tests.
        start_executor: Makes the executor when the first step really has to run.
        stop_at_s: When the run is to stop, in seconds since the epoch; told to the steps.
    """

    def __init__(
        self,
        store: Store,
        planner: Planner,
        board: Board,
        observer: Observer,
        clock: Clock,
        start_executor: StartExecutor,
        stop_at_s: float | None,
    ) -> None:
        self._stop_at_s = stop_at_s
        self._store, self._planner, self._graph = store, planner, planner.graph
        self._board, self._observer, self._clock = board, observer, clock
        self._start_executor = start_executor
        self._executor: Executor | None = None
        self._error: StepFailedError | None = None
        self._schedule = Schedule()
        self._plans: dict[str, PlannedStep] = {}
        self._tasks: dict[str, Task] = {}
        self._failures: dict[str, Counter[FailureKind]] = {}
        self._retry_at_s: dict[str, float] = {}
        self._late_at_s: dict[str, float] = {}

    @property
    def has_failed(self) -> bool:
        """Whether a step failed for good; nothing is to be started after that."""
        return self._error is not None

    def check(self) -> None:
        """Raise StepFailedError if a step failed for good."""
        if self._error is not None:
            raise self._error

    def plan(self, planned: PlannedStep) -> None:
        """Note what a step is to do once it starts."""
        self._plans[planned.name] = planned

    def forget(self, name: str) -> None:
        """Drop what only a step that is not over needs."""
        for known in (self._plans, self._tasks, self._failures, self._retry_at_s, self._late_at_s):
            known.pop(name, None)

    def ended(self, wait_s: float) -> Iterator[tuple[str, Manifest]]:
        """Take in how attempts end, and yield the results; what is late is stopped.

        Each result is to be noted by the planner before the next one is asked for.

        Args:
            wait_s: How long to wait for the first.
        """
        for outcome in self._executor.poll(wait_s) if self._executor else ():
            name, result = outcome.step, outcome.result
            self._schedule.end(self._graph.steps[name], outcome.seconds)
            if isinstance(result, Manifest):
                self._find_key(name)
                yield name, result
            elif result is None or not self._find_key(name):
                self._board.move(name, StepState.WAITING)
            else:
                yield from self._fail(name, result)
        yield from self._stop_late()
        for name in self._due():
            found = self._committed(name)
            if found is not None:
                yield name, found

    def start(self, may_start: Callable[[str], bool]) -> None:
        """Start what resources allow, what was tried before first.

        Args:
            may_start: Asked last, for a step that was not tried before.

        Raises:
            ClusterError: At the first start, if a step needs more than there is.
        """
        names = self._due() + self._board.names(StepState.READY, LOOKED_AT)
        if not names:
            return
        executor = self._executor or self._begin()
        steps = (self._graph.steps[name] for name in names)
        candidates = ((step, self._is_patient(step)) for step in steps)
        for batch in self._schedule.choose(candidates, executor.capacity(), may_start):
            self._extend(batch)
            self._launch(batch, executor)

    def next_retry_s(self) -> float | None:
        """When the next attempt is due, if one waits for its time."""
        waiting = self._board.names(StepState.BACKOFF)
        return min((self._retry_at_s[name] for name in waiting), default=None)

    def cancel(self) -> None:
        """Stop all that runs."""
        for name in self._board.names(StepState.RUNNING):
            self._board.move(name, StepState.CANCELLED)
        if self._executor is not None:
            self._executor.cancel()

    def close(self) -> None:
        """Let go of the executor."""
        if self._executor is not None:
            self._executor.close()

    def _due(self) -> list[str]:
        now_s = self._clock.monotonic()
        waiting = self._board.names(StepState.BACKOFF)
        return [name for name in waiting if self._retry_at_s[name] <= now_s]

    def _find_key(self, name: str) -> bool:
        """Learn the key of a step that followed others; False if these made nothing."""
        if self._tasks[name].follows:
            task = self._tasks[name].after(self._planner.results)
            if task is None:
                return False
            self._tasks[name] = task
            reasons = self._planner.reasons(task.key)
            self._plans[name] = PlannedStep(name, "run", task.key, reasons)
            self._board[name].key, self._board[name].reasons = task.key.digest, reasons
        return True

    def _committed(self, name: str) -> Manifest | None:
        """What an attempt committed whose process died before it could say so, if one did."""
        if not self._graph.steps[name].checkpoint:
            return None
        plan = self._plans[name]
        found = committed(self._store, plan.key)
        return found if found is not None and found.generation >= plan.generation else None

    def _fail(self, name: str, failure: Failure) -> Iterator[tuple[str, Manifest]]:
        """Decide on another attempt; a failure that is caught is a result."""
        step, status = self._graph.steps[name], self._board[name]
        failure = failure.under(step.retry)
        status.failure = f"{failure.error_type}: {failure.message}"
        if step.catch and failure.kind is FailureKind.PERMANENT:
            self._observer.step_failed(name, failure, None)
            yield name, commit_failure(self._tasks[name], failure)
            return
        counts = self._failures.setdefault(name, Counter())
        counts[failure.kind] += 1
        delay_s = None if self._error else retry_delay_s(failure.kind, counts, step.retry)
        if delay_s is None and failure.kind is not FailureKind.PERMANENT:
            found = self._committed(name)
            if found is not None:
                yield name, found
                return
        self._board.move(name, StepState.FAILED if delay_s is None else StepState.BACKOFF)
        status.finished_at = now()
        self._observer.step_failed(name, failure, delay_s)
        if delay_s is not None:
            self._retry_at_s[name] = self._clock.monotonic() + delay_s
            return
        self._error = self._error or failure.raised(name)

    def _stop_late(self) -> Iterator[tuple[str, Manifest]]:
        now_s = self._clock.monotonic()
        late = [name for name, at_s in self._late_at_s.items() if at_s <= now_s]
        if late and self._executor is not None:
            self._executor.cancel(late)
        for name in late:
            del self._late_at_s[name]
            step = self._graph.steps[name]
            self._schedule.end(step, None)
            error = TimeoutError(f"no result after {step.timeout_s:g} s")
            yield from self._fail(name, Failure.of(error))

    def _is_patient(self, step: Step) -> bool:
        """Whether it may share a batch: no clock runs, no accelerator waits, nothing failed yet."""
        needs = step.resources
        is_plain = not (needs.gpus or needs.worker_cpus or needs.worker_gpus)
        return is_plain and step.timeout_s is None and not self._board[step.name].attempt

    def _extend(self, batch: Batch) -> None:
        """Let those follow in the same place that wait for nothing but the step before them.

        Only where a single step takes a result, so that steps which could run at the same time do.
        """
        for name in batch.steps:  # grows meanwhile
            consumers = self._graph.consumers(name)
            if len(consumers) == 1 and self._can_follow(self._graph.steps[consumers[0]], name):
                self._schedule.follow(self._graph.steps[consumers[0]], batch)

    def _can_follow(self, step: Step, before: str) -> bool:
        """Whether nothing but one input, a result that is kept, is left to decide about a step."""
        is_plain = step.checkpoint and not (step.gate or step.validate or step.fans_out_over)
        unmade = {name for name in producers(step) if self._board[name].state not in DONE}
        return (
            is_plain
            and self._graph.steps[before].checkpoint
            and self._board[step.name].state is StepState.WAITING
            and self._is_patient(step)
            and not self._planner.is_redone(step)
            and unmade == {before}
        )

    def _launch(self, batch: Batch, executor: Executor) -> None:
        for name in batch.steps:
            if name not in self._plans:
                self._plan_follower(self._graph.steps[name])
        for name in batch.steps:
            step = self._graph.steps[name]
            status = self._board.move(name, StepState.RUNNING)
            status.attempt, status.started_at = status.attempt + 1, now()
            if step.timeout_s is not None:
                self._late_at_s[name] = self._clock.monotonic() + step.timeout_s
            self._tasks[name] = self._task(step, status.attempt)
        executor.submit([self._tasks[name] for name in batch.steps])
        for name in batch.steps:
            self._observer.step_started(name, self._board[name].attempt, self._board[name].reasons)

    def _plan_follower(self, step: Step) -> None:
        before = ", ".join(name for name in producers(step) if self._board[name].state not in DONE)
        reasons = (f"{step.name}: follows {before}",)
        self._plans[step.name] = replace(self._planner.plan(step), reasons=reasons)
        self._board[step.name].reasons = reasons

    def _task(self, step: Step, attempt: int) -> Task:
        planned = self._plans[step.name]
        return Task(
            run_id=self._board.status.run_id,
            epoch=self._board.status.epoch,
            attempt=attempt,
            step=step,
            key=planned.key,
            generation=planned.generation,
            store=self._store,
            stop_at_s=self._stop_at_s,
            inputs={
                name: self._made(source) if isinstance(source, str) else source
                for name, source in step.inputs.items()
                if not isinstance(source, Each)
            },
        )

    def _made(self, source: str) -> Manifest | str:
        """The result of a step, or its name where it is still to be made in the same place."""
        is_made = self._board[source].state in DONE
        return self._planner.results[source] if is_made else source

    def _begin(self) -> Executor:
        """Start the executor, and find out before any work what it cannot do."""
        self._executor = self._start_executor(lambda event: event.tell(self._observer))
        capacity = self._executor.capacity()
        check_store_reaches(self._store, capacity.nodes)
        steps = self._graph.steps.values()
        check_capacity([s for s in steps if self._board[s.name].state not in DONE], capacity)
        return self._executor
