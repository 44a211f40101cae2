"""The sweep as one HTML page that holds everything it shows."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.report.charts import HALF, Series, line_chart
from orchestrator.report.page import TEMPLATES
from orchestrator.report.scatter import Dot, scatter
from orchestrator.sweep.journal import TrialRecord
from orchestrator.sweep.result import SweepResult
from orchestrator.sweep.table import conclusions, shown_value


def render(result: SweepResult, recipe: Mapping[str, Any]) -> str:
    """Fill the page.

    Args:
        result: What came out.
        recipe: What was searched, its resolved values.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["value"] = shown_value
    finished = [trial for trial in result.trials if trial.state == "finished"]
    return environment.get_template("sweep.html.j2").render(
        result=result,
        finished=finished,
        winner=None if result.winner is None else result.trial(result.winner),
        paths=list(dict.fromkeys(path for trial in result.trials for path in trial.values)),
        style=Markup((TEMPLATES / "page.css").read_text() + (TEMPLATES / "sweep.css").read_text()),
        script=Markup((TEMPLATES / "sweep.js").read_text()),
        plot=Markup(_plot(result, finished)),
        volume_chart=Markup(_volumes(result)),
        conclusions=list(conclusions(result)),
        made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        recipe=json.dumps(recipe, indent=2, ensure_ascii=False),
    )


def _plot(result: SweepResult, finished: list[TrialRecord]) -> str:
    """Accuracy by compute, the dense twin among the trials, those on the front joined."""
    dots = [_dot(result, trial) for trial in finished]
    dense = finished[0].figures["dense_accuracy"]
    facts = {"accuracy": f"{dense:.1%}", "compute": "x 1.00"}
    dots.append(Dot(name="dense twin", x=1.0, y=dense, css="dense", facts=facts))
    on_front = [index for index, trial in enumerate(finished) if trial.number in result.front]
    on_front.sort(key=lambda index: dots[index].x)
    return scatter(
        dots,
        x_label="compute of a prefill, % of the dense twin",
        y_label="accuracy, %",
        line=on_front,
    )


def _dot(result: SweepResult, trial: TrialRecord) -> Dot:
    known = trial.figures
    marks = {
        "winner": trial.number == result.winner,
        "front": trial.number in result.front,
        "broken": not result.is_feasible(trial),
    }
    measured = {
        "accuracy": f"{known['accuracy']:.1%} ({-known['accuracy_drop']:+.1f} points)",
        "compute": f"x {known['tflops']:.2f}",
        "KV cache": f"x {known['kv']:.2f}",
        "prefill time": f"x {known['prefill']:.2f}",
        "tokens skipped": f"{known['skip_all']:.1%}",
    }
    return Dot(
        name=f"trial {trial.number}",
        x=known["tflops"],
        y=known["accuracy"],
        css=" ".join(name for name, is_set in marks.items() if is_set) or "other",
        facts={path: shown_value(value) for path, value in trial.values.items()} | measured,
    )


def _volumes(result: SweepResult) -> str:
    points = [(float(number), volume) for number, volume in enumerate(result.hypervolume, 1)]
    series = [Series(name="hypervolume", css="mod", points=points)]
    return line_chart(series, y_label="hypervolume", x_label="trials", width=HALF)
