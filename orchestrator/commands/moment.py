"""Points in time as a person gives them."""

import re
from datetime import datetime, timedelta

from workloads.duration import parse_duration


def parse_moment(text: str, now: datetime | None = None) -> float:
    """Read ``18:30`` (the next one), ``2026-03-01 18:30`` or, from now on, ``90min``.

    ``@1772366400.5`` is a moment by itself, which may have passed: so one process tells another.

    Args:
        text: What was given.
        now: Local time to start from; by default the present.

    Returns:
        Seconds since the epoch.

    Raises:
        ValueError: If it is none of these, or a time or date in the past.
    """
    if re.fullmatch(r"@\d+(\.\d+)?", text):
        return float(text[1:])
    now = now or datetime.now()
    duration_s = parse_duration(text)
    if duration_s is not None:
        return now.timestamp() + duration_s
    try:
        if re.fullmatch(r"\d{1,2}:\d{2}", text):
            hour, minute = map(int, text.split(":"))
            moment = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
            moment += timedelta(days=moment <= now)
        else:
            moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"expected a time such as 18:30, a date and time such as '2026-03-01 18:30', or a "
            f"duration such as 90min, got {text!r}"
        ) from None
    if moment.timestamp() <= now.timestamp():
        raise ValueError(f"{text!r} is in the past")
    return moment.timestamp()
