"""Where every step of a run stands: moved by the transition tables, written down now and then."""

from collections.abc import Iterable
from contextlib import suppress
from itertools import islice

from orchestrator.durable.record import RunStatus, StepStatus, write_status
from orchestrator.durable.states import RUN_MOVES, STEP_MOVES, RunState, StepState, move
from orchestrator.ownership import Clock
from orchestrator.store import Store, StoreError

_STATUS_S = 0.5
_STATUS_SHARE = 0.02
"""Of the driver's time that may go into writing its status, which grows with the run."""


class Board:
    """The status of a run and its steps, found by name and by state.

    Args:
        store: Where the status is written.
        run_id: The run.
        names: Its steps so far; they wait.
        clock: Time, for tests.
    """

    def __init__(self, store: Store, run_id: str, names: Iterable[str], clock: Clock) -> None:
        self._store, self._clock = store, clock
        self.status = RunStatus(run_id, 0)
        self._by_state: dict[StepState, dict[str, None]] = {state: {} for state in StepState}
        self._due_s = clock.monotonic()
        for name in names:
            self.add(name)

    def __getitem__(self, name: str) -> StepStatus:
        """Where a step stands."""
        return self.status.steps[name]

    def names(self, state: StepState, at_most: int | None = None) -> list[str]:
        """The steps in a state, in the order in which they came into it."""
        return list(islice(self._by_state[state], at_most))

    def has(self, state: StepState) -> bool:
        """Whether any step is in a state."""
        return bool(self._by_state[state])

    def add(self, name: str) -> None:
        """Take in a step that waits."""
        self.status.steps[name] = StepStatus()
        self._by_state[StepState.WAITING][name] = None

    def move(self, name: str, state: StepState) -> StepStatus:
        """Change a step's state, as the table of moves allows."""
        status = self[name]
        before, status.state = status.state, move(STEP_MOVES, status.state, state)
        del self._by_state[before][name]
        self._by_state[state][name] = None
        return status

    def become(self, state: RunState) -> None:
        """Change the run's state, as the table of moves allows."""
        if state is not self.status.state:
            self.status.state = move(RUN_MOVES, self.status.state, state)

    def record(self, *, at_once: bool = False) -> None:
        """Write the status now and then. A store that is away for a while stops nobody here."""
        start_s = self._clock.monotonic()
        if at_once or start_s >= self._due_s:
            with suppress(StoreError, OSError):
                write_status(self._store, self.status)
            now_s = self._clock.monotonic()
            self._due_s = now_s + max(_STATUS_S, (now_s - start_s) / _STATUS_SHARE)
