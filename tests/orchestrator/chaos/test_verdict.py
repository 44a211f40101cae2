from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.chaos import FaultKind, Remains, Results, Round, Verdict

WHOLE = Remains(
    digests={"align": ("c0ffee",)},
    runs={"digits FINISHED": 1},
    points={"align loss 1": 1, "align loss 2": 1},
    versions={"digits-mod": 1},
)


def test_equal_remains_are_a_pass() -> None:
    assert Verdict.on(replace(WHOLE), WHOLE).differences == ()


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"digests": {"align": ("bad",)}}, "digests: align has ('bad',), undisturbed ('c0ffee',)"),
        ({"runs": {"digits FINISHED": 2}}, "runs: digits FINISHED has 2, undisturbed 1"),
        ({"points": {"align loss 1": 1}}, "points: align loss 2 has none, undisturbed 1"),
        ({"versions": {"digits-mod": 2}}, "versions: digits-mod has 2, undisturbed 1"),
        ({"processes": ("7 raylet",)}, "process left: 7 raylet"),
        ({"files": ("tmp/x",)}, "temporary file left: tmp/x"),
    ],
)
def test_what_is_twice_missing_or_left_is_named(changed: dict[str, Any], difference: str) -> None:
    assert Verdict.on(replace(WHOLE, **changed), WHOLE).differences == (difference,)


def series(*disturbed: Round) -> Results:
    return Results(undisturbed=Round(remains=WHOLE, starts=1), disturbed=disturbed)


def test_a_series_passes_if_every_run_does() -> None:
    good = Round(inflicted=Counter({FaultKind.CLOCK: 2}), starts=1, remains=WHOLE)
    bad = replace(good, remains=replace(WHOLE, versions={}))
    assert series(good, good).passed
    assert not series(good, bad).passed
    assert series(good, bad).inflicted[FaultKind.CLOCK] == 4


def test_what_was_seen_on_the_way_counts_too() -> None:
    results = series(Round(trouble=["a driver did not leave"], remains=WHOLE))
    assert not results.passed
    assert "a driver did not leave" in results.tables()


def test_a_run_that_did_not_succeed_is_told_by_its_exit_codes() -> None:
    results = series(Round(starts=2, exit_codes=[-9, 1]))
    assert "did not succeed; its drivers ended with -9, 1" in results.tables()
    assert results.to_json()["runs"][0]["differences"]
