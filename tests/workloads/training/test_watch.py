import json
import math
from typing import Any

import pytest

from orchestrator import recipe
from workloads.training import Guards
from workloads.training.watch import Event, Figures, Memory, Watch


def figures(step: int = 21, **changes: Any) -> Figures:
    values: dict[str, Any] = {"broken_inputs": 0, "loss": 1.0, "grad_norm": 1.0, "entropies": {}}
    return Figures(step=step, **{**values, **changes})


def history(*norms: float, skipped: int = 0) -> list[dict[str, float]]:
    points = [{"step": float(i), "grad_norm": norm} for i, norm in enumerate(norms, 1)]
    return points + [{"step": 0.0, "skipped": 1.0}] * skipped


def ids(step: int) -> list[str]:
    return [f"{step}-{row}" for row in range(12)]


def judge(watch: Watch, seen: Figures, past: list[dict[str, float]]) -> list[Event]:
    return watch.judge(seen, past, ids)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("non_finite", "warn"),
        ("spike", "ignore"),
        ("collapse", "skip"),
        ("spike_factor", 1.0),
        ("spike_window", 0),
        ("min_entropy", 1.0),
        ("patience", 0),
        ("rollback_rate", 0.0),
        ("limit", 0),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"guards\.{field} must be"):
        Guards.from_json({field: value})


def test_an_unknown_guard_is_refused() -> None:
    with pytest.raises(ValueError, match="guards has no 'spikes'; it has non_finite, spike"):
        Guards.from_json({"spikes": "warn"})


def test_recipes_have_the_same_guards_by_default() -> None:
    assert Guards.from_json(recipe.Guards().model_dump()) == Guards()


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (figures(broken_inputs=1, loss=math.nan, grad_norm=math.nan), "an input of the batch"),
        (figures(loss=math.nan), "loss is nan: lower learning_rate"),
        (figures(grad_norm=math.inf), "grad_norm is inf"),
    ],
)
def test_what_is_not_finite_is_told_with_the_samples(seen: Figures, reason: str) -> None:
    (event,) = judge(Watch(Guards(), "lower learning_rate"), seen, [])
    assert reason in str(event)
    assert "samples 20-0, 20-1" in str(event)
    assert "20-7 and 4 more" in str(event)
    assert (event.guard, event.action, len(event.samples)) == ("non_finite", "stop", 12)


@pytest.mark.parametrize(("norm", "fires"), [(19.9, False), (20.1, True)])
def test_a_spike_is_measured_against_the_median_of_the_steps_before(
    norm: float, fires: bool
) -> None:
    past = history(*[1.0] * 6, *[50.0] * 5)
    events = judge(Watch(Guards(), ""), figures(grad_norm=norm), past)
    assert [event.guard for event in events] == ["spike"] * fires


def test_the_first_norms_and_skipped_steps_make_no_median() -> None:
    past = history(*[1.0] * 9, skipped=5)
    assert not judge(Watch(Guards(), ""), figures(grad_norm=1e6), past)


def test_a_collapse_is_told_once_after_it_has_lasted() -> None:
    watch = Watch(Guards(patience=3), "")
    low = figures(entropies={3: (0.999, 0.01), 4: (0.5, 1.0)})
    told = [judge(watch, low, []) for _ in range(5)]
    assert [len(events) for events in told] == [0, 0, 1, 0, 0]
    assert "layer 3 would compute all tokens (mean probability 0.9990)" in str(told[2][0])
    assert told[2][0].value == 1.0
    judge(watch, figures(entropies={3: (0.5, 1.0)}), [])
    again = [judge(watch, figures(entropies={3: (0.001, 0.01)}), []) for _ in range(3)]
    assert "layer 3 would skip all tokens" in str(again[2][0])


def test_the_most_severe_event_comes_last() -> None:
    watch = Watch(Guards(spike="rollback", collapse="warn", patience=1), "")
    seen = figures(grad_norm=100.0, entropies={0: (0.0, 0.0)})
    assert [e.action for e in judge(watch, seen, history(*[1.0] * 10))] == ["warn", "rollback"]


def test_too_many_skips_in_a_row_are_a_stop() -> None:
    watch = Watch(Guards(non_finite="skip", limit=2), "")
    for past, action in ((history(1.0, skipped=1), "skip"), (history(1.0, skipped=2), "stop")):
        (event,) = judge(watch, figures(loss=math.nan), past)
        assert event.action == action
    assert "the 2 batches before were skipped" in event.reason


def test_a_rollback_lowers_the_rates_from_the_last_good_checkpoint_on() -> None:
    watch = Watch(Guards(non_finite="rollback", limit=1), "")
    watch.checkpoint_is_due(10)
    (event,) = judge(watch, figures(14, loss=math.nan), [])
    before, watch.memory = watch.memory, Memory(good=10)
    watch.roll_back(before, event, 10)
    assert [watch.rate(step) for step in (9, 10, 20)] == [1.0, 0.5, 0.5]
    assert [step for step in range(20) if watch.is_left_out(step)] == [13]
    assert Memory.from_json(json.loads(json.dumps(watch.memory.to_json()))) == watch.memory
    (event,) = judge(watch, figures(15, loss=math.nan), [])
    assert event.action == "stop"
    assert "1 rollbacks did not help" in event.reason


def test_a_checkpoint_of_a_collapsed_layer_is_no_good_one() -> None:
    watch = Watch(Guards(collapse="rollback", patience=9), "")
    watch.checkpoint_is_due(2)
    judge(watch, figures(entropies={0: (0.0, 0.0)}), [])
    watch.checkpoint_is_due(4)
    assert watch.memory.good == 2
