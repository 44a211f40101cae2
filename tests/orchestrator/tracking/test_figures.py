import json

from orchestrator.tracking.figures import read_figures


def test_a_guard_that_fired_is_a_metric_at_its_step() -> None:
    history = {
        "points": [{"step": 1, "loss": 2.0}, {"step": 2, "skipped": 1.0}],
        "events": [{"step": 2, "guard": "spike", "value": 31.5, "samples": ["a", "b"]}],
    }
    figures = read_figures({"history.json": json.dumps(history)})
    assert figures.series == (
        (1, {"loss": 2.0}),
        (2, {"skipped": 1.0}),
        (2, {"guard/spike": 31.5}),
    )


def test_signals_that_nobody_heard_are_in_the_result() -> None:
    told = {"steps": 6, "signals": [{"step": 5, "signal/padding": 0.25}]}
    found = read_figures({"training.json": json.dumps(told)})
    assert found.series == ((5, {"signal/padding": 0.25}),)


def test_samples_that_were_replaced_are_counted_at_their_step() -> None:
    replaced = [{"step": step, "sample": "a", "by": "b"} for step in (3, 1, 3)]
    figures = read_figures({"history.json": json.dumps({"points": [], "replaced": replaced})})
    assert figures.series == ((1, {"replaced_samples": 1.0}), (3, {"replaced_samples": 2.0}))
