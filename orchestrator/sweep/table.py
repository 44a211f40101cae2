"""A sweep on a terminal."""

import json
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from orchestrator.sweep.journal import TrialRecord
from orchestrator.sweep.result import SweepResult

_FIGURES = ("accuracy", "points", "compute", "cache", "prefill", "skipped")


def print_result(result: SweepResult, console: Console) -> None:
    """Print every trial, then what they say together."""
    paths = list(dict.fromkeys(path for trial in result.trials for path in trial.values))
    title = f"{result.sweep_id}: shares of the dense twin; * on the front, ! breaks a constraint"
    table = Table("", *paths, *_FIGURES, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for trial in result.trials:
        values = [shown_value(trial.values[path]) if path in trial.values else "" for path in paths]
        table.add_row(_mark(result, trial), *values, *_figures(trial))
    console.print(table)
    for line in conclusions(result):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def conclusions(result: SweepResult) -> Iterator[str]:
    """What the trials say together, in sentences."""
    if result.hypervolume:
        yield f"hypervolume: {result.hypervolume[-1]:.4f} of the cube up to the dense twin's cost"
    if result.knee is not None:
        yield f"knee: trial {result.knee}, after which accuracy falls faster than compute"
    for each in result.sensitivity:
        known = each["correlation"]
        how = "" if known is None else f", rank correlation {known:+.2f}"
        share = f"{each['share']:.0%} of its variance (fANOVA)"
        yield f"{each['figure']} owes {each['path']} {share}{how}"
    for reason, count in result.refused.items():
        yield f"not tried {count} times: {reason}"
    if result.winner is not None:
        winner = result.trial(result.winner)
        values = ", ".join(f"{path}={shown_value(v)}" for path, v in winner.values.items())
        yield f"winner: trial {winner.number}: {values}"
    else:
        yield "winner: none, no trial satisfies the constraints"


def shown_value(value: object) -> str:
    """A value of the recipe, short."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _mark(result: SweepResult, trial: TrialRecord) -> str:
    front = "*" if trial.number in result.front else ""
    broken = "!" if trial.state == "finished" and not result.is_feasible(trial) else ""
    return f"{trial.number}{front}{broken}"


def _figures(trial: TrialRecord) -> list[str]:
    known = trial.figures
    if trial.state != "finished":
        return [trial.state, *[""] * (len(_FIGURES) - 1)]
    return [
        f"{known['accuracy']:.1%}",
        f"{-known['accuracy_drop']:+.1f}",
        *(f"x {known[name]:.2f}" for name in ("tflops", "kv", "prefill")),
        f"{known['skip_all']:.0%}",
    ]
