import enum
import json
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.artifacts.key import source_digest
from orchestrator.durable import StepKey, canonical, digest, explain

KEY = StepKey(
    name="finetune",
    version=2,
    params={"learning_rate": 2e-5, "layers": [1, 2], "mod": {"capacity_ratio": 0.66, "γ": True}},
    inputs={"data": "ab" * 32},
    source="cd" * 32,
)

# Few characters, but of every kind: the whole of Unicode takes seconds to set up.
texts = st.text('abγ€😀"\\/\n\x00', max_size=5)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
some = settings(
    max_examples=50, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_a_key_never_changes_its_digest() -> None:
    assert KEY.digest == "9c97e0bbb4425a94594a7de5b3e8607667730db0889d6144beaa53dd8e044f9d"
    assert digest("result", []) == (
        "9b07c7eb6cf8caa4caeb73915c32547d29bc77205fddb99c04a229eec8ce9db2"
    )


def test_canonical_text_is_sorted_and_tight() -> None:
    assert canonical({"b": (1, 1.0), "a": "γ"}) == '{"a":"γ","b":[1,1.0]}'.encode()


@some
@given(values)
def test_canonical_text_reads_back_to_itself(value: Any) -> None:
    text = canonical(value)
    assert canonical(json.loads(text)) == text


@some
@given(st.dictionaries(texts, values, max_size=6))
def test_order_of_names_never_matters(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert replace(KEY, params=turned).digest == replace(KEY, params=value).digest


@some
@given(values, values)
def test_different_values_have_different_text(one: Any, other: Any) -> None:
    is_same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (canonical(one) == canonical(other)) == is_same
    assert (not explain(replace(KEY, params={"x": one}), replace(KEY, params={"x": other}))) == (
        is_same
    )


def test_subclasses_of_plain_types_count_as_those() -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    class Rank(enum.IntEnum):
        FIRST = 1

    assert canonical([Colour.RED, Rank.FIRST]) == b'["red",1]'


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), r"params\.rates\[1\] must be a finite number, got nan"),
        (float("-inf"), "finite"),
        (PurePosixPath("/data"), r"must not be a path, got '/data'.*External\(digest"),
        ({1: 2}, r"params\.rates\[1\] must have text as names, got 1"),
        ({1, 2}, "must be JSON"),
        (b"bytes", "must be JSON"),
        ("\ud800", "surrogates"),
    ],
)
def test_refuses_what_json_does_not_hold(value: Any, reason: str) -> None:
    with pytest.raises((TypeError, ValueError), match=reason):
        canonical({"rates": [1, value]}, "params")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "align"},
        {"version": 3},
        {"params": {}},
        {"inputs": {"data": "ef" * 32}},
        {"inputs": {"other": "ab" * 32}},
        {"strict_code": True},
    ],
)
def test_everything_a_result_depends_on_is_in_the_key(change: dict[str, Any]) -> None:
    assert replace(KEY, **change).digest != KEY.digest


def test_code_is_only_in_a_strict_key() -> None:
    other = replace(KEY, source="00" * 32)
    assert other.digest == KEY.digest
    assert replace(other, strict_code=True).digest != replace(KEY, strict_code=True).digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, []),
        ({"version": 3}, ["version 2 -> 3"]),
        (
            {"params": {**KEY.params, "learning_rate": 1e-5}},
            ["learning_rate 2e-05 -> 1e-05"],
        ),
        (
            {"params": {**KEY.params, "mod": {"capacity_ratio": 0.5, "γ": True}}},
            ["mod.capacity_ratio 0.66 -> 0.5"],
        ),
        ({"params": {**KEY.params, "layers": [1]}}, ["layers [1, 2] -> [1]"]),
        ({"params": {**KEY.params, "seed": "x"}}, ["seed absent -> x"]),
        ({"inputs": {"data": "ef" * 32}}, ["input data abababababab -> efefefefefef"]),
        ({"inputs": {}}, ["input data abababababab -> absent"]),
        (
            {"source": ""},
            ["code cdcdcdcdcdcd -> absent (not part of the key without --strict-code)"],
        ),
    ],
)
def test_says_in_words_what_changed(change: dict[str, Any], words: list[str]) -> None:
    assert explain(KEY, replace(KEY, **change)) == [f"finetune: {line}" for line in words]


def test_long_values_are_cut_in_an_explanation() -> None:
    (line,) = explain(KEY, replace(KEY, params={**KEY.params, "layers": list(range(100))}))
    assert len(line) < 120
    assert line.endswith("…")


def test_source_is_found_without_importing_it() -> None:
    assert len(source_digest("tests.orchestrator.durable.functions:write")) == 64
    assert source_digest("no_such_module:function") == ""
