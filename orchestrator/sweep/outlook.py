"""What a sweep would do, found out from recipe and store alone: nothing is started."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

from orchestrator.artifacts.key import digest
from orchestrator.durable import External, PlannedStep, Step, plan
from orchestrator.launch import Launch, assemble
from orchestrator.pipeline import needed_for
from orchestrator.search_space import Sweep
from orchestrator.store import Store
from orchestrator.sweep.brackets import bracket_of, shares
from orchestrator.sweep.forecast import Outlook, StageOutlook
from orchestrator.sweep.journal import Journal, TrialRecord
from orchestrator.sweep.judge import Judge, Predict
from orchestrator.sweep.launching import (
    MEASURED,
    sweep_launch,
    sweep_of,
    trials_at_once,
    widest_step,
)
from orchestrator.sweep.suggest import suggest

_MOST_POINTS = 2000
"""Of a grid, that are looked at one by one."""


def outlook(launch: Launch, cluster: Mapping[str, float]) -> Outlook:
    """Look ahead at the sweep of a recipe.

    Args:
        launch: Of the recipe.
        cluster: Resources by Ray's names, ``CPU`` and ``GPU``.

    Raises:
        PreflightError: If the recipe has no section ``sweep``.
    """
    sweep = sweep_of(launch)
    searching = sweep_launch(launch, {})
    predict = _closed_form(searching)
    ahead = _Ahead(Judge(launch.recipe, predict or _unknown), sweep)
    known = Journal(launch.store, searching.run_id).trials
    trials = ahead.trials(known)
    launches = [assemble(ahead.judge.recipe_of(trial.values), launch.store) for trial in trials]
    widest = widest_step(launch.steps)
    steps = sweep.proxy.steps or launch.recipe.finetune.steps
    return Outlook(
        sweep_id=searching.run_id,
        at_most=sweep.at_most,
        ended=sum(trial.state != "running" for trial in known),
        begun=sum(trial.state == "running" for trial in known),
        trials=tuple(trials),
        looked_at=len(ahead.looked_at),
        refused=dict(ahead.refused),
        closed_form=predict is not None,
        stages=_stages(launch.store, [needed_for(each.steps, MEASURED) for each in launches]),
        cpus=widest.all_cpus,
        gpus=widest.all_gpus,
        at_once=trials_at_once(sweep, launch.steps, cluster),
        comparisons=_comparisons(sweep, steps, len(trials)),
        steps=steps,
    )


class _Ahead:
    """Finds the trials of a sweep as the search would, as if nothing were learned from them."""

    def __init__(self, judge: Judge, sweep: Sweep) -> None:
        self.judge, self._sweep = judge, sweep
        self.looked_at: set[str] = set()
        self._reasons: dict[str, str] = {}

    @property
    def refused(self) -> Counter[str]:
        return Counter(self._reasons.values())

    def trials(self, known: Sequence[TrialRecord]) -> list[TrialRecord]:
        found = list(known)
        while len(found) < self._sweep.trials and (trial := self._next(found)):
            found.append(trial)
        if self._sweep.algorithm == "grid":
            self._look_at_the_grid(found)
        return found

    def _next(self, found: Sequence[TrialRecord]) -> TrialRecord | None:
        number, accepted = len(found), []

        def accept(values: dict[str, Any]) -> dict[str, Any] | None:
            trial = self._judged(number, values, found)
            accepted.extend([trial] if trial else [])
            return dict(trial.values) if trial else None

        suggest(self._sweep, number, found, accept)
        return accepted[-1] if accepted else None

    def _look_at_the_grid(self, found: Sequence[TrialRecord]) -> None:
        choices = [each.values or () for each in self._sweep.space.values()]
        for number, point in enumerate(product(*choices)):
            if number == _MOST_POINTS:
                return
            self._judged(len(found), dict(zip(self._sweep.space, point, strict=True)), found)

    def _judged(
        self, number: int, values: dict[str, Any], found: Sequence[TrialRecord]
    ) -> TrialRecord | None:
        name = json.dumps(values, sort_keys=True)
        self.looked_at.add(name)
        verdict = self.judge.judge(number, values, found)
        if verdict.reason:
            self._reasons[name] = verdict.reason
        return verdict.trial


def _closed_form(searching: Launch) -> Predict | None:
    """What the step ``prompts`` has found out, if it has run."""
    decided = {planned.name: planned for planned in searching.planned()}
    manifest = decided["prompts"].manifest
    if manifest is None or decided["prompts"].action != "reuse":
        return None
    # Closed form shares its code with the model, which imports torch.
    from orchestrator.sweep.prediction import predict
    from workloads.evaluation import DecoderShape

    found = json.loads(searching.store.read(f"{manifest.root}/result/prompts.json"))
    shape = DecoderShape(**found["shape"])
    return partial(predict, shape=shape, prompts=found["prompts"])


def _unknown(_: object) -> None:
    return None


def _stages(store: Store, runs: Sequence[Sequence[Step]]) -> tuple[StageOutlook, ...]:
    found: dict[str, dict[str, bool]] = {step.name: {} for run in runs for step in run}
    of_trials: Counter[str] = Counter()
    seen: dict[str, list[PlannedStep]] = {}
    for run in runs:
        origins = _origins(run)
        whole = digest("run", origins)
        if whole not in seen:
            seen[whole] = plan(store, run)
        for planned in seen[whole]:
            of_trials[planned.name] += 1
            found[planned.name][origins[planned.name]] = planned.action == "reuse"
    return tuple(
        StageOutlook(
            name=name,
            results=len(results),
            reused=sum(results.values()),
            trials=of_trials[name],
        )
        for name, results in found.items()
    )


def _origins(steps: Sequence[Step]) -> dict[str, str]:
    """For each step a digest of all that its result comes from, known before anything is made."""
    found: dict[str, str] = {}
    for step in steps:
        inputs = {
            name: source.digest if isinstance(source, External) else found[str(source)]
            for name, source in step.inputs.items()
        }
        parts = {"version": step.version, "params": step.params, "inputs": inputs}
        found[step.name] = digest("origin", {"function": step.function, **parts})
    return found


def _comparisons(sweep: Sweep, steps: int, trials: int) -> dict[int, int]:
    early = sweep.early_stopping
    if early is None:
        return {}
    parts = shares(early, steps)
    brackets = Counter(bracket_of(number, parts) for number in range(trials))
    return {
        early.grace * early.reduction**bracket: brackets[bracket] for bracket in range(len(parts))
    }
