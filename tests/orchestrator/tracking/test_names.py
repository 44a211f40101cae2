import pytest
from mlflow.utils.validation import _validate_metric_name, _validate_param

from orchestrator.tracking.names import KEY_LENGTH, PARAM_LENGTH, clean_key, clean_keys, flat_params


@pytest.mark.parametrize(
    "key", ["loss", "skip@layer:3", "a//b/./c", "../up", "/abs", "", "?", "ü" * 300, "x/" * 200]
)
def test_any_text_becomes_a_key_that_mlflow_takes(key: str) -> None:
    _validate_metric_name(clean_key(key))  # type: ignore[no-untyped-call]
    assert len(clean_key(key)) <= KEY_LENGTH


def test_a_good_key_stays_as_it_is() -> None:
    assert clean_key("skip/layer 3/image_tokens-all.mean") == "skip/layer 3/image_tokens-all.mean"


def test_two_keys_that_would_become_one_keep_apart() -> None:
    cleaned = clean_keys({"a@b": 1, "a#b": 2})
    assert sorted(cleaned.values()) == [1, 2]
    assert "a_b" in cleaned


def test_nested_values_become_dotted_parameters_of_limited_length() -> None:
    params = flat_params(
        {"mod": {"layers": [1, 2], "router": None}, "name": "x" * 900, "empty": {}}
    )
    assert params["mod.layers"] == "[1, 2]"
    assert params["mod.router"] == "null"
    assert params["empty"] == "{}"
    assert len(params["name"]) == PARAM_LENGTH
    for key, value in params.items():
        _validate_param(key, value)  # type: ignore[no-untyped-call]
