"""The arena: one run of a recipe at a time, in a store and with an MLflow server of its own."""

import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.chaos.clock import set_clock
from orchestrator.chaos.faults import STORE_FAULTS, Fault, FaultKind
from orchestrator.chaos.filesystem import give_orders
from orchestrator.chaos.processes import MARK, Driver, kill, marked
from orchestrator.chaos.tracking_server import TrackingServer
from orchestrator.chaos.verdict import Remains, leftovers, look
from orchestrator.durable import open_store, read_status, run_identity
from orchestrator.durable.states import RunState
from orchestrator.ownership.epochs import last_epoch
from orchestrator.recipe_file import load_recipe

_TICK_S = 0.2
_TAKEOVER_S = 180.0
_PATIENCE_S = 1800.0
_UNDISTURBED_STARTS = 3
"""A machine under load may be too slow for Ray's start once."""
_LARGEST_JUMP_S = 14 * 86400.0
"""A clock is set forward or back by up to a week."""
_DONE, _FAILED, _WRONG_USAGE = 0, 1, 2
_LASTING = (*STORE_FAULTS, FaultKind.TRACKING)


@dataclass(slots=True)
class Round:
    """One run from its first driver to its last."""

    inflicted: Counter[FaultKind] = field(default_factory=Counter)
    starts: int = 0
    exit_codes: list[int] = field(default_factory=list)
    """Of every driver; negative for a signal."""
    trouble: list[str] = field(default_factory=list)
    """What must not happen and was seen while the run was driven."""
    seconds: float = 0.0
    remains: Remains | None = None
    """None if the run did not succeed."""


class Arena:
    """Runs a recipe in ``folder``, and strikes it with faults meanwhile.

    Args:
        folder: Empty; holds the store, MLflow's records and the drivers' log.
        recipe: Name or path of the recipe.
        overrides: Values in place of the recipe's.
        environment: Of the processes that are started.
        tell: Told of every fault.
    """

    def __init__(
        self,
        folder: Path,
        recipe: str,
        overrides: Sequence[str],
        environment: Mapping[str, str],
        tell: Callable[[str], None],
    ) -> None:
        self._folder, self._recipe, self._overrides = folder, recipe, tuple(overrides)
        self._tell, self._token = tell, uuid.uuid4().hex
        self._offset, self._store = folder / "clock", folder / "store"
        self._store_url = f"chaos://{self._store}"
        self._log = folder / "driver.log"
        resolved = load_recipe(recipe, overrides)
        self._run_id = run_identity(resolved.name, resolved.identity())
        # Nobody else's cluster is to be disturbed.
        own = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
        # Not in the arena's folder, which may be too deep for the names of sockets.
        self._temporary = Path(tempfile.mkdtemp(prefix="gr-"))
        self._environment = own | {MARK: self._token, "TMPDIR": str(self._temporary)}
        (folder / "mlflow").mkdir(parents=True)
        self._server = TrackingServer(folder / "mlflow", environment)
        self._round = Round()
        self._later: list[tuple[float, Callable[[], None]]] = []

    def last_words(self) -> str:
        """The last line that a driver has printed."""
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return lines[-1] if lines else "nothing was printed"

    def run(self, faults: deque[Fault]) -> Round:
        """Drive the run to its end, taking faults from the left of the schedule meanwhile.

        The same command is given again whenever a driver has ended but the run is not done.
        """
        begin_s = time.monotonic()
        self._server.start()
        try:
            if self._drive(faults):
                self._catch_up()
                self._round.remains = self._look()
        finally:
            self._server.stop()
            kill(marked(self._token))
            shutil.rmtree(self._temporary, ignore_errors=True)
        self._round.seconds = time.monotonic() - begin_s
        return self._round

    def _drive(self, faults: deque[Fault]) -> bool:
        """Whether the run succeeded; False if it failed for good or does not end."""
        most_starts = None if faults else _UNDISTURBED_STARTS
        driver = self._start()
        strike_s = time.monotonic() + (faults[0].delay_s if faults else 0.0)
        give_up_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < give_up_s:
            self._do_what_is_due()
            code = driver.exit_code
            if code is not None:
                self._round.exit_codes.append(code)
                if code == _DONE or self._has_failed(code) or self._round.starts == most_starts:
                    return code == _DONE
                driver = self._start()
            elif faults and time.monotonic() >= strike_s:
                struck = self._strike(faults[0], driver)
                if struck is not None:
                    driver = struck
                    strike_s = time.monotonic() + self._note(faults)
                    give_up_s = time.monotonic() + _PATIENCE_S
            time.sleep(_TICK_S)
        driver.signal(signal.SIGKILL)
        self._round.trouble.append(f"no end and no target for a fault within {_PATIENCE_S:g} s")
        return False

    def _has_failed(self, code: int) -> bool:
        """Whether the same command would fail again.

        Ray ends a process with 1 from its C++ when it loses the raylet while it connects: then the
        run's own record tells.
        """
        if code == _FAILED:
            store = open_store(str(self._store))
            return read_status(store, self._run_id).state is RunState.FAILED
        return code == _WRONG_USAGE

    def _note(self, faults: deque[Fault]) -> float:
        """Take a fault that has happened off the schedule; returns the seconds to the next one."""
        fault = faults.popleft()
        self._round.inflicted[fault.kind] += 1
        self._tell(f"{fault.kind} ({fault.seconds:.1f} s)")
        lasting_s = fault.seconds if fault.kind in _LASTING else 0.0
        return lasting_s + (faults[0].delay_s if faults else 0.0)

    def _strike(self, fault: Fault, driver: Driver) -> Driver | None:
        """Let a fault happen; returns who drives after it, None if there was nothing to hit yet."""
        match fault.kind:
            case FaultKind.WORKER | FaultKind.RAYLET:
                is_worker = fault.kind is FaultKind.WORKER
                targets = driver.workers() if is_worker else driver.raylets()
                if not targets:
                    return None
                kill([targets[int(fault.draw * len(targets))]])
            case FaultKind.DRIVER:
                driver.signal(signal.SIGKILL)
            case FaultKind.PAUSED:
                return self._pause(driver)
            case FaultKind.TRACKING:
                self._server.stop()
                self._later.append((time.monotonic() + fault.seconds, self._server.start))
            case FaultKind.CLOCK:
                set_clock(self._offset, (fault.draw - 0.5) * _LARGEST_JUMP_S)
            case _:
                give_orders(self._folder, fault.kind, fault.seconds)
        return driver

    def _pause(self, driver: Driver) -> Driver | None:
        """Stop a driver until another one has taken over, then wake it: it has to leave."""
        epoch = self._epoch()
        if epoch == 0:
            return None
        driver.signal(signal.SIGSTOP)
        successor = self._start()
        deadline = time.monotonic() + _TAKEOVER_S
        while self._epoch() == epoch and successor.exit_code is None:
            if time.monotonic() > deadline:
                break
            time.sleep(_TICK_S)
        driver.signal(signal.SIGCONT)
        loser, winner = (successor, driver) if self._epoch() == epoch else (driver, successor)
        try:
            self._round.exit_codes.append(loser.wait(_TAKEOVER_S))
        except subprocess.TimeoutExpired:
            loser.signal(signal.SIGKILL)
            self._round.trouble.append("a driver did not leave that had lost the run")
        return winner

    def _start(self) -> Driver:
        self._round.starts += 1
        arguments = ["run", self._recipe, *self._overrides]
        arguments += [f"tracking.uri={self._server.uri}", "--store", self._store_url]
        return Driver(arguments, self._environment, self._offset, self._log)

    def _epoch(self) -> int:
        return last_epoch(open_store(str(self._store)), self._run_id)

    def _do_what_is_due(self) -> None:
        now_s = time.monotonic()
        for due_s, action in list(self._later):
            if due_s <= now_s:
                self._later.remove((due_s, action))
                action()

    def _catch_up(self) -> None:
        for _, action in self._later:
            action()
        self._later.clear()

    def _look(self) -> Remains:
        store = open_store(str(self._store))
        processes, files = leftovers(self._token, {"tmp": self._temporary, "store": self._store})
        remains = look(store, self._run_id, self._server.uri)
        return replace(remains, processes=processes, files=files)
