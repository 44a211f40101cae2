"""When a training saves its state, and when it has to stop: what ranks agree on at every step."""

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from workloads.reporting import Reporter
from workloads.training.checkpoints.store import CheckpointStore
from workloads.training.checkpoints.timetable import Every, Timetable
from workloads.training.config import TrainingConfig
from workloads.training.engine import Engine
from workloads.training.errors import TrainingStoppedError
from workloads.training.watch import Watch

Notice = Callable[[], str | None]
"""Why to save at once, such as that a machine is about to be taken away; all ranks ask together
and hear the same."""

_LOOK_S = 5.0
"""Between two questions whether there is a notice."""


class Saver:
    """Keeps checkpoints of one training; all ranks make the same calls.

    Only rank 0's clock counts. What it says, and whether every rank's files have arrived, travels
    with the sums that a step takes anyway: see `votes`.

    Args:
        store: Where checkpoints are kept.
        engine: Whose ranks and layout they have.
        config: How often, and whether the result depends on it.
        write: Puts this rank's files into a folder.
        reporter: Hears what a person should know.
        notice: Asked now and then; None if nothing gives notice.
        stop_at_s: When to be saved and to stop, in seconds since the epoch; None for never. It
            begins so much earlier as the last checkpoint took.
    """

    def __init__(
        self,
        store: CheckpointStore,
        engine: Engine,
        config: TrainingConfig,
        write: Callable[[Path], None],
        reporter: Reporter,
        *,
        notice: Notice | None = None,
        stop_at_s: float | None = None,
    ) -> None:
        self._store, self._engine, self._config = store, engine, config
        self._write, self._reporter = write, reporter
        self._notice, self._stop_at_s = notice, stop_at_s
        failure_s = config.hours_between_failures * 3600.0 / engine.ranks.size
        self._timetable = Timetable(Every.parse(config.checkpoint_every), failure_s)
        self._look_at_s = time.monotonic() + _LOOK_S
        self._heeded: str | None = None
        self._on_its_way: int | None = None
        self._began_s = time.monotonic()
        self._lead_s = 0.0  # what the last checkpoint took until it was kept
        self._is_uploaded = self._is_time = self._may_look = self._must_stop = False

    def votes(self) -> list[float]:
        """This rank's say at the start of a step, to be added up over ranks."""
        is_first = self._engine.ranks.is_first
        is_over = self._stop_at_s is not None and time.time() + self._lead_s >= self._stop_at_s
        is_time = not self._timetable.counts_steps and self._timetable.is_due(0)
        may_look = self._notice is not None and time.monotonic() >= self._look_at_s
        return [
            float(self._store.is_uploaded),
            float(is_first and is_time),
            float(is_first and may_look),
            float(is_first and is_over),
        ]

    def hear(self, totals: Sequence[float]) -> None:
        """Take in the sums of all ranks' votes."""
        uploaded, is_time, may_look, is_over = totals
        self._is_uploaded = uploaded == self._engine.ranks.size
        self._is_time, self._may_look = bool(is_time), bool(may_look)
        self._must_stop = bool(is_over)

    def after(self, done: int, watch: Watch) -> None:
        """Do what is due after ``done`` optimizer steps.

        Args:
            done: Steps done, fewer than all.
            watch: Told of checkpoints that were planned; knows which one a rollback needs.

        Raises:
            TrainingStoppedError: If the time is up; the state has been saved.
            RuntimeError: If a checkpoint could not be kept that the result may depend on.
        """
        if self._is_uploaded:
            self.finish()
        is_planned = self._is_time
        if self._timetable.counts_steps:
            is_planned = self._timetable.is_due(done)
        notice = self._new_notice()
        if is_planned:
            watch.checkpoint_is_due(done)
        memory = watch.memory
        if is_planned or notice or self._must_stop or memory.best == done:
            needed = {memory.good} if memory.best is None else {memory.good, memory.best}
            self.save(done, protected=needed)
        if notice or self._must_stop:
            self.finish()
        if self._must_stop:
            raise TrainingStoppedError("the time is up; its state has been saved", done)
        self._is_uploaded = self._is_time = self._may_look = False

    def save(self, done: int, *, protected: Collection[int] = ()) -> None:
        """Save the state after ``done`` steps; the upload goes on in the background.

        Args:
            done: Optimizer steps done.
            protected: Steps of checkpoints that stay: what a rollback would need, and the best.
        """
        called_s = time.monotonic()
        self.finish()
        self._began_s = time.monotonic()
        self._store.save(done, self._engine.layout, self._write, protected=protected)
        self._on_its_way = done
        self._timetable.saved(time.monotonic() - called_s)

    def finish(self) -> None:
        """Wait for the checkpoint that is on its way, if there is one."""
        fault, step = self._store.finish(), self._on_its_way
        self._on_its_way = None
        if fault is None:
            if step is not None:
                self._lead_s = time.monotonic() - self._began_s
            return
        text = f"the checkpoint of step {step} could not be kept: {fault}"
        if self._config.guards.may_roll_back:
            raise RuntimeError(f"{text}; a rollback would not find it")
        if self._engine.ranks.is_first:
            self._reporter.message(f"{text}; the one before stays the newest")

    def left_s(self, done: int) -> float | None:
        """Seconds to the next checkpoint as rank 0 expects it, None if unknown."""
        return self._timetable.left_s(done)

    def _new_notice(self) -> str | None:
        if not self._may_look or self._notice is None:
            return None
        self._look_at_s = time.monotonic() + _LOOK_S
        notice = self._engine.ranks.from_first(self._notice())
        if notice is None or notice == self._heeded:
            return None
        self._heeded = notice
        if self._engine.ranks.is_first:
            self._reporter.message(f"saving a checkpoint at once: {notice}")
        return notice
