from datetime import datetime

import pytest

from orchestrator.commands.moment import parse_moment

NOW = datetime(2026, 3, 1, 12, 0)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("18:30", datetime(2026, 3, 1, 18, 30)),
        ("9:05", datetime(2026, 3, 2, 9, 5)),
        ("2026-03-04 18:30", datetime(2026, 3, 4, 18, 30)),
        ("2026-03-04T18:30:10", datetime(2026, 3, 4, 18, 30, 10)),
        ("90min", datetime(2026, 3, 1, 13, 30)),
        ("1.5 h", datetime(2026, 3, 1, 13, 30)),
        ("45s", datetime(2026, 3, 1, 12, 0, 45)),
    ],
)
def test_a_time_a_date_or_a_duration_is_a_moment(text: str, moment: datetime) -> None:
    assert parse_moment(text, NOW) == moment.timestamp()


def test_a_moment_that_another_process_tells_may_have_passed() -> None:
    assert parse_moment("@1772366400.25", NOW) == 1772366400.25


def test_the_past_is_refused() -> None:
    with pytest.raises(ValueError, match="'2026-02-28 10:00' is in the past"):
        parse_moment("2026-02-28 10:00", NOW)


@pytest.mark.parametrize("text", ["", "soon", "25:00", "18.30", "-5min"])
def test_anything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="such as 18:30"):
        parse_moment(text, NOW)
