"""Step ``search`` of a sweep: Ray Tune runs the trials, and their figures are compared."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import ray
from ray import tune

from orchestrator.durable import StepContext
from orchestrator.launch import Launch, assemble
from orchestrator.pipeline import needed_for
from orchestrator.recipe import Recipe
from orchestrator.sweep.errors import AllTrialsFailedError, NothingFeasibleError, TrialLostError
from orchestrator.sweep.halving import halving
from orchestrator.sweep.journal import Journal, TrialRecord
from orchestrator.sweep.judge import Judge
from orchestrator.sweep.launching import MEASURED, trials_at_once
from orchestrator.sweep.page import render
from orchestrator.sweep.prediction import Prompt, predict
from orchestrator.sweep.result import SweepResult, sum_up
from orchestrator.sweep.searcher import JournalSearcher
from orchestrator.sweep.sensitivity import sensitivities
from orchestrator.sweep.trial import Order, Trial
from orchestrator.sweep.values import overrides
from orchestrator.tracking import TrackedRun
from workloads.evaluation import DecoderShape

_LOST = 3
"""Times that a trial may lose its actor or its cluster's attention in one search."""
_TUNE_SETTINGS = {
    # An interrupt ends the step, and Ray Tune with it.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A loss is reported while a trial trains, its figures at the end.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # A run that is cancelled gives its steps 10 s.
    "TUNE_FORCE_TRIAL_CLEANUP_S": "90",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""What Ray Tune reads from the environment of the process that searches."""


def search(context: StepContext) -> None:
    """Write ``sweep.json``, and ``sweep.html`` as a measurement.

    The journal in the sweep's run tells which trials are left to do.

    Raises:
        NothingFeasibleError: If closed form lets no values pass; nothing was run.
        AllTrialsFailedError: If no trial came to its end.
        TrialLostError: If one was stopped from outside too often; it goes on the next time.
    """
    settings: Mapping[str, Any] = context.settings
    recipe = Recipe.model_validate_json(json.dumps(settings["recipe"]))
    assert recipe.sweep is not None
    known = json.loads((context.inputs["prompts"].path / "prompts.json").read_text())
    searching = Searching(recipe, context, DecoderShape(**known["shape"]), known["prompts"])
    result = searching.run(settings["start"])
    (context.output / "sweep.json").write_text(json.dumps(result.to_json(), indent=1))
    page = render(result, {**recipe.identity(), "sweep": recipe.sweep.identity()})
    (context.measurement / "sweep.html").write_text(page, encoding="utf-8")


class Searching:
    """One search of a sweep.

    Args:
        recipe: With its section ``sweep``.
        context: Of the step.
        shape: Of the decoder.
        prompts: For closed form.
    """

    def __init__(
        self,
        recipe: Recipe,
        context: StepContext,
        shape: DecoderShape,
        prompts: Sequence[Prompt],
    ) -> None:
        assert recipe.sweep is not None
        self._recipe, self._sweep, self._context = recipe, recipe.sweep, context
        self._judge = Judge(recipe, partial(predict, shape=shape, prompts=prompts))
        self._journal = Journal(context.store, context.run_id)

    def run(self, start: Mapping[str, Any]) -> SweepResult:
        """Run what is left to do and sum up; ``start`` is how the sweep was started."""
        base = assemble(self._recipe, self._context.store)
        at_once = trials_at_once(self._sweep, base.steps, ray.cluster_resources())  # type: ignore[no-untyped-call]
        self._context.reporter.message(f"{at_once} trials at a time")
        searcher = JournalSearcher(
            self._sweep,
            self._journal,
            judge=lambda number, drawn: self._judge.judge(number, drawn, self._journal.trials),
            order=partial(self._order, start=start, at_once=at_once),
            tell=self._tell,
        )
        lost = self._fit(searcher, at_once)
        trials = self._journal.trials
        if not trials:
            reasons = "; ".join(reason for reason, _ in searcher.refused.most_common(3))
            raise NothingFeasibleError(f"no values of the space may be tried: {reasons}")
        if lost or any(trial.state == "running" for trial in trials):
            raise TrialLostError(f"a trial was stopped from outside: {lost or 'no reason known'}")
        if not any(trial.state == "finished" for trial in trials):
            raise AllTrialsFailedError(_first_failures(trials))
        return self._sum_up(searcher.refused)

    def _fit(self, searcher: JournalSearcher, at_once: int) -> str:
        """Let Ray Tune run the trials; returns why the first of those was lost that were."""
        os.environ.update(_TUNE_SETTINGS)
        early = self._sweep.early_stopping
        with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
            tuner = tune.Tuner(
                Trial,
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=halving(early, self._steps, self._journal.trials) if early else None,
                    num_samples=max(self._sweep.trials, len(self._journal.trials)),
                    max_concurrent_trials=at_once,
                    # A stopped trial has to end at once, not when its actor is needed again.
                    reuse_actors=early is None,
                ),
                run_config=tune.RunConfig(
                    name=self._context.run_id,
                    storage_path=folder,
                    failure_config=tune.FailureConfig(max_failures=_LOST),
                    # What a trial has done is in the store.
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    verbose=0,
                ),
            )
            errors = tuner.fit().errors
        return str(errors[0]) if errors else ""

    @property
    def _steps(self) -> int:
        return self._sweep.proxy.steps or self._recipe.finetune.steps

    def _order(self, trial: TrialRecord, *, start: Mapping[str, Any], at_once: int) -> Order:
        recipe = self._judge.recipe_of(trial.values)
        launch = assemble(recipe, self._context.store)
        early = self._sweep.early_stopping
        given = overrides({**trial.values, **self._sweep.proxy.values})
        return Order(
            number=trial.number,
            sweep_id=self._context.run_id,
            run=_tracked(launch, self._context.run_id, trial),
            steps=needed_for(launch.steps, MEASURED),
            store=launch.store,
            recipe=recipe.identity(),
            metadata={
                "recipe": start["recipe"],
                "overrides": [*start["overrides"], *given],
                "to": list(MEASURED),
            },
            tracking_uri=launch.tracking_uri,
            experiment=recipe.tracking.experiment,
            at_once=at_once,
            report_every=early.grace if early else None,
        )

    def _tell(self, trial: TrialRecord) -> None:
        """Say what came of a trial, for people and for the tracker."""
        shown = ", ".join(f"{path} {_shown(value)}" for path, value in trial.values.items())
        known = trial.figures
        if trial.state == "finished":
            told = (
                f"accuracy {known['accuracy']:.1%} ({-known['accuracy_drop']:+.1f} points), "
                f"compute x {known['tflops']:.2f}, prefill x {known['prefill']:.2f}"
            )
            self._context.reporter.metrics(trial.number, known)
        else:
            told = f"{trial.state}: {trial.reason}"
        self._context.reporter.message(f"trial {trial.number}: {shown}: {told}")
        done = sum(each.state != "running" for each in self._journal.trials)
        self._context.reporter.progress(done, self._sweep.at_most, unit="trials")

    def _sum_up(self, refused: Mapping[str, int]) -> SweepResult:
        found = [
            asdict(each)
            for figure in ("accuracy", "tflops")
            for each in sensitivities(self._sweep, self._journal.trials, figure)
        ]
        return sum_up(
            self._sweep,
            sweep_id=self._context.run_id,
            recipe=self._recipe.name,
            trials=self._journal.trials,
            refused=refused,
            sensitivity=found,
        )


def _tracked(launch: Launch, sweep_id: str, trial: TrialRecord) -> TrackedRun:
    values = {f"gammaray.trial.{path}": _shown(value) for path, value in trial.values.items()}
    return TrackedRun(
        run_id=launch.run_id,
        name=f"trial {trial.number}",
        recipe=launch.recipe.identity(),
        tags={"gammaray.sweep": sweep_id, "gammaray.trial": str(trial.number), **values},
        part_of=sweep_id,
    )


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def _first_failures(trials: Sequence[TrialRecord]) -> str:
    ended = [trial for trial in trials if trial.reason]
    reasons = "; ".join(f"trial {trial.number} {trial.reason}" for trial in ended[:3])
    return f"not one of {len(trials)} trials came to its end: {reasons}"
