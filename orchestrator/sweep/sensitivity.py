"""How much each searched value matters, and in which direction.

The measure is fANOVA (Hutter et al., 2014), as Optuna has it: the share of a figure's variance over
the space that a value explains alone, by a random forest fitted to the finished trials. The
direction is Spearman's rank correlation. With few trials both are rough.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from optuna import Study
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from orchestrator.search_space import Sweep
from orchestrator.sweep.journal import TrialRecord
from orchestrator.sweep.suggest import study_of
from workloads.arank.order import spearman

_FEWEST = 4
"""Finished trials below which nothing is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """What one figure owes to one key."""

    path: str
    figure: str
    share: float
    """Of the figure's variance, explained by this key alone."""
    correlation: float | None
    """Of ranks; None for values without an order, or without variation."""


def sensitivities(sweep: Sweep, tried: Sequence[TrialRecord], figure: str) -> list[Sensitivity]:
    """The keys that every finished trial has, the most important first; few trials say nothing."""
    finished = [each for each in tried if each.state == "finished"]
    values = [each.figures[figure] for each in finished]
    shared = [path for path in sweep.space if all(path in each.values for each in finished)]
    if len(finished) < _FEWEST or len(set(values)) == 1 or not shared:
        return []
    shares = _shares(study_of(sweep, finished), figure, shared)
    found = [
        Sensitivity(
            path=path,
            figure=figure,
            share=shares[path],
            correlation=_correlation([each.values[path] for each in finished], values),
        )
        for path in shared
    ]
    return sorted(found, key=lambda each: -each.share)


def _shares(study: Study, figure: str, paths: list[str]) -> dict[str, float]:
    def target(trial: FrozenTrial) -> float:
        return float(trial.user_attrs[figure])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the forest, about few samples
        return get_param_importances(
            study,
            evaluator=FanovaImportanceEvaluator(seed=0),
            params=paths,
            target=target,
            normalize=False,
        )


def _correlation(values: Sequence[object], figures: Sequence[float]) -> float | None:
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values):
        return None
    return spearman(np.asarray(numbers), np.asarray(figures))
