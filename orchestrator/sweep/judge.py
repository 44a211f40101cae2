"""What is thought of values before they are tried: whether they are new, legal and affordable."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from orchestrator.artifacts.key import canonical
from orchestrator.durable import run_identity
from orchestrator.recipe import Recipe
from orchestrator.sweep.journal import TrialRecord
from orchestrator.sweep.values import active, trial_recipe
from workloads.errors import WorkloadError

Predict = Callable[[Recipe], Mapping[str, float] | None]
"""Closed form: shares of the dense twin that a trial will cost, or None if it cannot tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What is thought of values before they are tried."""

    trial: TrialRecord | None
    """The trial that they would be; None if they are refused."""
    reason: str = ""
    """Why they are refused; empty if they were tried before."""


@dataclass(frozen=True, slots=True)
class _Opinion:
    reason: str = ""
    run_id: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    predicted: Mapping[str, float] = field(default_factory=dict)


class Judge:
    """Judges values for a sweep; the same values are looked at once.

    Args:
        recipe: With its section ``sweep``.
        predict: Closed form.
    """

    def __init__(self, recipe: Recipe, predict: Predict) -> None:
        assert recipe.sweep is not None
        self._recipe, self._sweep, self._predict = recipe, recipe.sweep, predict
        self._opinions: dict[bytes, _Opinion] = {}

    def judge(self, number: int, drawn: Mapping[str, Any], tried: Sequence[TrialRecord]) -> Verdict:
        """Whether values are new, taken by the recipe and, as far as can be told, feasible."""
        known = canonical(dict(drawn))
        if known not in self._opinions:
            self._opinions[known] = self._look_at(drawn)
        opinion = self._opinions[known]
        if opinion.reason:
            return Verdict(trial=None, reason=opinion.reason)
        if any(trial.run_id == opinion.run_id for trial in tried):
            return Verdict(trial=None)
        return Verdict(
            trial=TrialRecord(
                number=number,
                run_id=opinion.run_id,
                values=opinion.values,
                predicted=opinion.predicted,
            )
        )

    def recipe_of(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe of the trial with these values: with the budget of a trial."""
        return trial_recipe(self._recipe, {**values, **self._sweep.proxy.values})

    def _look_at(self, drawn: Mapping[str, Any]) -> _Opinion:
        values = active(self._recipe, drawn)
        try:
            recipe = self.recipe_of(values)
            predicted = self._predicted(recipe)
        except (ValidationError, ValueError, WorkloadError) as error:
            return _Opinion(f"the recipe refuses them: {error}")
        for bound in self._sweep.bounds:
            if bound.metric in predicted and bound.violation(predicted) > 0:
                return _Opinion(f"not {bound}, as closed form has it")
        return _Opinion("", run_identity(recipe.name, recipe.identity()), values, predicted)

    def _predicted(self, recipe: Recipe) -> Mapping[str, float]:
        same = recipe.model == self._recipe.model and recipe.data == self._recipe.data
        return (self._predict(recipe) if same else None) or {}
