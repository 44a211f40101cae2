"""What came out of a sweep, as plain data: the one source of table, page and ``sweep.json``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from orchestrator.report import Summary
from orchestrator.search_space import Constraint, Sweep
from orchestrator.sweep.errors import MetricMissingError, NoWinnerError
from orchestrator.sweep.front import hypervolume, knee, pareto
from orchestrator.sweep.journal import TrialRecord

AXES = ("accuracy", "tflops", "prefill")
"""What the front is over: accuracy, closed-form compute and measured prefill time."""
REFERENCE = (1.0, 1.0, 1.0)
"""No right answer, and the dense twin's compute and prefill time; the ideal is 0 in each."""

_RATIOS = {"tflops": "tflops_closed", "kv": "kv_bytes_closed", "prefill": "prefill_s"}
"""Figure to the row of a run's summary whose change it is."""


def figures_of(run_id: str, summary: Summary) -> dict[str, float]:
    """The figures that a sweep compares, of a trial's finished run.

    ``accuracy`` and ``dense_accuracy`` are shares, ``accuracy_drop`` is in points; ``tflops``,
    ``kv`` and ``prefill`` are shares of the dense twin; ``skip_all`` is what was measured.

    Raises:
        MetricMissingError: If one of them was not measured, or is no number.
    """
    accuracy = summary.row("accuracy")
    skip = summary.row("skip_all_measured")
    found = {"accuracy": accuracy.mod, "dense_accuracy": accuracy.dense, "skip_all": skip.mod}
    found |= {name: summary.row(row).change for name, row in _RATIOS.items()}
    figures: dict[str, float] = {}
    for name, value in found.items():
        if value is None or not isfinite(value):
            raise MetricMissingError(
                f"run {run_id} has no figure {name!r} (it is {value}), which the sweep compares: "
                "look at its evaluation and efficiency with `gammaray logs`"
            )
        figures[name] = value
    figures["accuracy_drop"] = 100 * (figures["dense_accuracy"] - figures["accuracy"])
    return figures


def costs(figures: Mapping[str, float], axes: Sequence[str] = AXES) -> tuple[float, ...]:
    """The figures as costs: low is good."""
    return tuple(1 - figures[axis] if axis == "accuracy" else figures[axis] for axis in axes)


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepResult:
    """A sweep in figures."""

    sweep_id: str
    recipe: str
    algorithm: str
    objectives: tuple[str, ...]
    constraints: tuple[str, ...]
    trials: tuple[TrialRecord, ...]
    front: tuple[int, ...]
    """Numbers of the trials that no other one beats in accuracy, compute and prefill time."""
    hypervolume: tuple[float, ...]
    """After each trial, in order of their numbers: of the cube between the ideal and `REFERENCE`,
    the share that is beaten."""
    knee: int | None
    """Number of the trial after which accuracy is lost faster than compute is saved."""
    winner: int | None
    """The best by the only objective, or the knee; of the trials that satisfy the constraints."""
    refused: Mapping[str, int]
    """Values that were not tried, by the reason."""
    sensitivity: tuple[Mapping[str, Any], ...]
    """See `Sensitivity`; of accuracy and of compute."""
    proxy: Mapping[str, Any]
    """What a trial's budget was instead of the recipe's."""

    def trial(self, number: int) -> TrialRecord:
        """The trial of a number."""
        return self.trials[number]

    def the_winner(self) -> TrialRecord:
        """The trial to train again.

        Raises:
            NoWinnerError: If no trial satisfies the constraints.
        """
        if self.winner is None:
            bounds = " and ".join(self.constraints)
            raise NoWinnerError(f"none of {len(self.trials)} trials satisfies {bounds}")
        return self.trial(self.winner)

    def is_feasible(self, trial: TrialRecord) -> bool:
        """Whether it is finished and satisfies the constraints."""
        bounds = [Constraint.parse(text) for text in self.constraints]
        return trial.state == "finished" and _is_within(bounds, trial)

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "SweepResult":
        """From what `to_json` gave."""
        trials = tuple(TrialRecord(**trial) for trial in document["trials"])
        lists = {name: tuple(document[name]) for name in _TUPLES}
        return cls(**{**document, **lists, "trials": trials})


_TUPLES = ("objectives", "constraints", "front", "hypervolume", "sensitivity")


def sum_up(
    sweep: Sweep,
    *,
    sweep_id: str,
    recipe: str,
    trials: Sequence[TrialRecord],
    refused: Mapping[str, int],
    sensitivity: Sequence[Mapping[str, Any]],
) -> SweepResult:
    """Compare the trials of a sweep."""
    finished = [trial for trial in trials if trial.state == "finished"]
    points = [costs(trial.figures) for trial in finished]
    feasible = [trial for trial in finished if _is_within(sweep.bounds, trial)]
    return SweepResult(
        sweep_id=sweep_id,
        recipe=recipe,
        algorithm=sweep.algorithm,
        objectives=sweep.objectives,
        constraints=sweep.constraints,
        trials=tuple(trials),
        front=tuple(finished[index].number for index in pareto(points)),
        hypervolume=tuple(
            hypervolume([costs(t.figures) for t in finished if t.number <= trial.number], REFERENCE)
            for trial in trials
        ),
        knee=_knee(finished),
        winner=_winner(sweep, feasible),
        refused=dict(refused),
        sensitivity=tuple(sensitivity),
        proxy=sweep.proxy.values,
    )


def _is_within(bounds: Sequence[Constraint], trial: TrialRecord) -> bool:
    return all(bound.violation(trial.figures) <= 0 for bound in bounds)


def _winner(sweep: Sweep, feasible: Sequence[TrialRecord]) -> int | None:
    if not feasible:
        return None
    if len(sweep.objectives) > 1:
        return _knee(feasible)
    best = min(feasible, key=lambda trial: (costs(trial.figures, sweep.objectives), trial.number))
    return best.number


def _knee(trials: Sequence[TrialRecord]) -> int | None:
    if not trials:
        return None
    return trials[knee([costs(trial.figures, ("accuracy", "tflops")) for trial in trials])].number
