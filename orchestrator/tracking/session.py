"""One pipeline run in MLflow: a parent run and a child for each step.

Lives in the writer's thread. Every method may be repeated without changing what is recorded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.tracking.figures import read_figures
from orchestrator.tracking.location import public
from orchestrator.tracking.names import flat_params
from orchestrator.tracking.point import Point
from orchestrator.tracking.records import Records, Status
from orchestrator.tracking.result import StepResult
from orchestrator.tracking.source import source_tags

RUN_TAG = "gammaray.run_id"
STEP_TAG = "gammaray.step"
WHOLE_RUN = "(run)"
"""The value of `STEP_TAG` on a parent run."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a pipeline run is called, and what its parent run in MLflow says."""

    run_id: str
    name: str
    recipe: Mapping[str, object]
    """The resolved recipe: flattened into parameters, and attached whole as recipe.json."""
    tags: Mapping[str, str] = field(default_factory=dict)
    part_of: str | None = None
    """The sweep that it is a trial of, under whose parent run it is shown."""


class RunSession:
    """Writes of one pipeline run, addressed by step name.

    Args:
        records: Where they go.
        run: The pipeline run; its parent run is opened, or found again.
    """

    def __init__(self, records: Records, run: TrackedRun) -> None:
        self._records, self._run = records, run
        self._parent = records.open_run(self._identity(WHOLE_RUN), name=run.name)
        around = run.part_of and records.find(identity(run.part_of, WHOLE_RUN))
        if around:
            records.tags(self._parent, {"mlflow.parentRunId": around})
        self._children: dict[str, str] = {}
        self._open: set[str] = set()

    def describe(self) -> None:
        """Write the run's parameters, tags and recipe."""
        self._records.params(self._parent, flat_params(self._run.recipe))
        self._records.tags(self._parent, {**source_tags(), **self._run.tags})
        self._records.json(self._parent, self._run.recipe, "recipe.json")

    def step_started(self, step: str, tags: Mapping[str, str]) -> None:
        """Open the step's child run; one that had finished makes way for a new one."""
        if step not in self._open:
            known = self._records.find(self._identity(step))
            if known is not None and self._records.status(known) == "FINISHED":
                self._records.discard(known)
        self._records.tags(self._child(step), tags)

    def points(self, step: str, points: list[Point]) -> None:
        """Write the points of a step that are not there yet; of the whole run for `WHOLE_RUN`."""
        run_id = self._parent if step == WHOLE_RUN else self._child(step, reopen=False)
        self._records.points(run_id, points)

    def tags(self, step: str, tags: Mapping[str, str]) -> None:
        """Set tags of a step's child run."""
        self._records.tags(self._child(step, reopen=False), tags)

    def step_finished(self, step: str, result: StepResult, time_ms: int) -> None:
        """Write what the step's files say, so that no point is missing, and close its child."""
        child = self._child(step)
        texts = result.texts()
        figures = read_figures(texts)
        series = (*figures.series, (0, result.times()))
        points = [
            Point(key, at, value, time_ms) for at, values in series for key, value in values.items()
        ]
        self._records.points(child, points)
        self._records.tags(child, {**figures.tags, **result.tags()})
        data = result.manifest.key.inputs.get("data")
        if data is not None:
            self._records.dataset(
                child,
                name=self._run.name,
                digest=data,
                source=public(result.store.url),
                context=step,
            )
        lineage = {f"gammaray.digest.{step}": result.manifest.digest}
        self._records.tags(self._parent, {**figures.tags, **lineage})
        for name, text in texts.items():
            self._records.text(child, text, name)
        self._close(step, "FINISHED")

    def step_reused(self, step: str, result: StepResult, time_ms: int) -> None:
        """Complete the child of a step whose result was found, unless it is complete already."""
        known = self._records.find(self._identity(step))
        if known is None or self._records.status(known) != "FINISHED":
            self.step_finished(step, result, time_ms)

    def step_failed(self, step: str, tags: Mapping[str, str]) -> None:
        """Close the child of a step that is not tried again."""
        self._records.tags(self._child(step), tags)
        self._close(step, "FAILED")

    def close(self, status: Status) -> None:
        """Set the final status of the parent, and of children that are still open."""
        for step in sorted(self._open):
            self._close(step, "KILLED")
        self._records.close_run(self._parent, status)

    def _child(self, step: str, *, reopen: bool = True) -> str:
        if step in self._children and (step in self._open or not reopen):
            return self._children[step]
        self._children[step] = self._records.open_run(
            self._identity(step), name=step, parent=self._parent
        )
        self._open.add(step)
        return self._children[step]

    def _close(self, step: str, status: Status) -> None:
        self._records.close_run(self._children[step], status)
        self._open.discard(step)

    def _identity(self, step: str) -> dict[str, str]:
        return identity(self._run.run_id, step)


def identity(run_id: str, step: str) -> dict[str, str]:
    """Tags by which the MLflow run of a step is found; of the parent run for `WHOLE_RUN`."""
    return {RUN_TAG: run_id, STEP_TAG: step}
