"""Which values to try next: a pure function of the sweep, the trial's number and what is known.

Nothing is remembered between two suggestions, so a sweep that was killed goes on as it would have
gone on: the journal in the store holds all that a suggestion depends on.
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.search_space import Parameter, Sweep
from orchestrator.sweep.journal import TrialRecord

_TRIES = 200
"""Values in a row that may be refused before the space counts as used up."""
_RANDOM_FIRST = 8
"""Trials before TPE has learned enough to suggest any."""

optuna.logging.set_verbosity(optuna.logging.ERROR)


Accept = Callable[[dict[str, Any]], dict[str, Any] | None]
"""Returns the values that take effect, or None for values that are not to be tried."""


def suggest(
    sweep: Sweep, number: int, tried: Sequence[TrialRecord], accept: Accept
) -> dict[str, Any] | None:
    """Values for trial ``number``; None if the space has none left that are accepted."""
    if sweep.algorithm == "grid":
        return _from_grid(sweep, accept)
    return _from_study(sweep, number, tried, accept)


def _from_grid(sweep: Sweep, accept: Accept) -> dict[str, Any] | None:
    choices = [parameter.values or () for parameter in sweep.space.values()]
    for point in product(*choices):
        accepted = accept(dict(zip(sweep.space, point, strict=True)))
        if accepted is not None:
            return accepted
    return None


def _from_study(
    sweep: Sweep, number: int, tried: Sequence[TrialRecord], accept: Accept
) -> dict[str, Any] | None:
    study = study_of(sweep, tried, _sampler(sweep, number))
    distributions = {path: _distribution(each) for path, each in sweep.space.items()}
    for _ in range(_TRIES):
        asked = study.ask(distributions)
        drawn = {path: _value(each, asked.params[path]) for path, each in sweep.space.items()}
        accepted = accept(drawn)
        if accepted is not None:
            return accepted
        study.tell(asked, state=TrialState.FAIL)
    return None


def study_of(
    sweep: Sweep, tried: Sequence[TrialRecord], sampler: BaseSampler | None = None
) -> optuna.Study:
    """The trials as Optuna knows them, in memory."""
    directions = [
        StudyDirection.MAXIMIZE if each == "accuracy" else StudyDirection.MINIMIZE
        for each in sweep.objectives
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(directions=directions, sampler=sampler)
        study.add_trials([_frozen(sweep, each) for each in tried if each.state != "failed"])
    return study


def _frozen(sweep: Sweep, tried: TrialRecord) -> FrozenTrial:
    known: dict[str, Any] = {"state": TrialState.RUNNING}
    if tried.state == "finished":
        broken = {str(bound): bound.violation(tried.figures) for bound in sweep.bounds}
        values = [tried.figures[name] for name in sweep.objectives]
        known = {"state": TrialState.COMPLETE, "values": values, "constraints": broken}
        known["user_attrs"] = dict(tried.figures)
    elif tried.state == "stopped":
        # Accuracy is maximised, and a lower loss stands for a higher one.
        seen = {int(tried.figures["step"]): -tried.figures["loss"]}
        known = {"state": TrialState.PRUNED, "intermediate_values": seen}
    return create_trial(
        params={path: _index(sweep.space[path], value) for path, value in tried.values.items()},
        distributions={path: _distribution(sweep.space[path]) for path in tried.values},
        **known,
    )


def _sampler(sweep: Sweep, number: int) -> BaseSampler:
    digest = hashlib.sha256(f"{sweep.seed} {number}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    if sweep.algorithm == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=_RANDOM_FIRST)


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.choice is not None:
        # By number: Optuna takes no lists or sections as categories.
        return CategoricalDistribution(range(len(parameter.choice)))
    low, high = parameter.bounds
    if parameter.integers is not None:
        return IntDistribution(int(low), int(high))
    return FloatDistribution(low, high, log=parameter.loguniform is not None)


def _value(parameter: Parameter, drawn: Any) -> Any:  # noqa: ANN401 - any JSON
    return drawn if parameter.choice is None else parameter.choice[drawn]


def _index(parameter: Parameter, value: Any) -> Any:  # noqa: ANN401 - any JSON
    return value if parameter.choice is None else parameter.choice.index(value)
