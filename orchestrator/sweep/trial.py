"""One trial: the durable run of its values, driven by a light actor of Ray Tune.

The actor takes no CPU. The steps of the run are Ray tasks and Ray Train workers on the cluster, as
those of a plain run are; what another run has made, or is making, is not made again.
"""

import threading
from collections import deque
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any, Literal

from ray import tune

from orchestrator.durable import JSON, Observer, Runner, Step, Store
from orchestrator.durable.executor import Capacity, Send
from orchestrator.errors import PreflightError
from orchestrator.observers import Observers
from orchestrator.ownership import OwnershipLostError, RunCancelledError, RunOwnedError
from orchestrator.ray_executor import RayExecutor
from orchestrator.report import from_store, summarize
from orchestrator.runs import cancel
from orchestrator.runs.log import RunLog
from orchestrator.store import DurableError
from orchestrator.sweep.result import figures_of
from orchestrator.tracking import MLflowTracker, TrackedRun

_COMPARED = "finetune-mod", "lm_loss"
"""The step and the metric by which trials are compared while they train."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Order:
    """All that a trial's actor has to know."""

    number: int
    sweep_id: str
    run: TrackedRun
    steps: tuple[Step, ...]
    store: Store
    recipe: Mapping[str, JSON]
    metadata: Mapping[str, JSON]
    tracking_uri: str
    experiment: str
    at_once: int
    """Trials that share the cluster."""
    report_every: int | None
    """Optimizer steps between two comparisons; None if trials are not compared meanwhile."""

    def __repr__(self) -> str:
        # Ray Tune makes names of it.
        return f"trial-{self.number:05d}"


class Trial(tune.Trainable):
    """The actor: each step of Ray Tune waits for the next report of the run, or for its end."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """A byte of memory: Ray Tune wants every trial to reserve something."""
        return tune.PlacementGroupFactory([{"memory": 1}])

    def setup(self, config: dict[str, Any]) -> None:
        """Start to drive."""
        self._driver = Driver(config["order"])
        self._driver.start()

    def step(self) -> dict[str, Any]:
        """A loss to compare, or the figures of the finished run, or why it failed.

        Raises:
            Exception: What stopped the run from outside; it is driven again.
        """
        found = self._driver.reports.get()
        if isinstance(found, Exception):
            raise found
        return found

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial, in a process that has imported everything."""
        self._driver.stop()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Leave nothing running."""
        self._driver.stop()


class Driver(threading.Thread):
    """Drives the run of a trial, and says what comes of it.

    Args:
        order: Which run.
    """

    def __init__(self, order: Order) -> None:
        super().__init__(name=repr(order), daemon=True)
        self.reports: SimpleQueue[dict[str, Any] | Exception] = SimpleQueue()
        self._order = order

    def run(self) -> None:
        """Drive to the end; an error that would come again is one, any other is handed on."""
        try:
            figures = _drive(self._order, self.reports)
        except RunCancelledError as error:
            self.reports.put(_ended("failed", reason=str(error)))
        except (OwnershipLostError, RunOwnedError) as error:
            self.reports.put(error)
        except (DurableError, PreflightError) as error:
            is_final = error.exit_code != 3
            self.reports.put(_ended("failed", reason=str(error)) if is_final else error)
        except Exception as error:  # noqa: BLE001 - handed to the actor's own thread
            self.reports.put(error)
        else:
            self.reports.put(_ended("finished", figures=figures))

    def stop(self) -> None:
        """Cancel the run if it is still driven, and wait until nothing of it runs."""
        if self.is_alive():
            with suppress(FileNotFoundError, DurableError):
                cancel(self._order.store, self._order.run.run_id)
            self.join()


def _ended(state: str, *, reason: str = "", figures: Mapping[str, float] = {}) -> dict[str, Any]:
    return {"done": True, "state": state, "reason": reason, "figures": dict(figures)}


def _drive(order: Order, reports: SimpleQueue[dict[str, Any] | Exception]) -> dict[str, float]:
    run_id = order.run.run_id
    with closing(RunLog(order.store, run_id)) as log:
        tracker = MLflowTracker(
            order.tracking_uri,
            order.experiment,
            run=order.run,
            store=order.store,
            tell=lambda text: log.message("mlflow", text),
        )
        status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
        tracker.open()  # also if everything is reused: it is to be shown in the sweep
        try:
            result = Runner(
                run_id,
                order.steps,
                order.store,
                start_executor=lambda send: _ShareOfCluster(send, order.at_once),
                observer=Observers(tracker, log, Comparison(order.report_every, reports)),
                recipe=order.recipe,
                metadata=order.metadata,
            ).run()
            summary = summarize(from_store(order.store, result.manifests))
            tracker.figures(summary.figures)
            figures = figures_of(run_id, summary)
            status = "FINISHED"
        except OwnershipLostError:
            status = "KILLED"
            raise
        finally:
            left = tracker.close(status)
            if left:
                log.message("mlflow", f"was not told {left}")
    return figures


class _ShareOfCluster(RayExecutor):
    """An executor that leaves room for the other trials' steps."""

    def __init__(self, send: Send, at_once: int) -> None:
        super().__init__(send)
        self._at_once = at_once

    def capacity(self) -> Capacity:
        """An equal part of what there is."""
        whole = super().capacity()
        return replace(whole, cpus=whole.cpus / self._at_once, gpus=whole.gpus / self._at_once)


class Comparison(Observer):
    """Reports the mean fine-tuning loss of the last ``every`` optimizer steps, so often.

    Args:
        every: Optimizer steps; None for never.
        reports: Where to.
    """

    def __init__(self, every: int | None, reports: SimpleQueue[dict[str, Any] | Exception]) -> None:
        self._every, self._reports = every, reports
        self._losses: deque[float] = deque(maxlen=every)

    def metrics(self, step: str, at: int, values: Mapping[str, float]) -> None:
        """Take in one optimizer step."""
        compared, loss = _COMPARED
        if self._every is None or step != compared or loss not in values:
            return
        self._losses.append(values[loss])
        if at % self._every == 0:
            mean = sum(self._losses) / len(self._losses)
            self._reports.put({"step": at, "loss": mean})
