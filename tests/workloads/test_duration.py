import pytest

from workloads.duration import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("90 s", 90.0), ("10min", 600.0), ("1.5h", 5400.0)]
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "min", "-5min", "5 minutes", "18:30"])
def test_anything_else_is_none(text: str) -> None:
    assert parse_duration(text) is None
