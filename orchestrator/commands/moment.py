"""Points in time as a person gives them."""

import re
from datetime import datetime, timedelta

_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|h)")
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def parse_moment(text: str, now: datetime | None = None) -> float:
    """Read ``18:30`` (the next one), ``2026-03-01 18:30`` or, from now on, ``90min``.

    Args:
        text: What was given.
        now: Local time to start from; by default the present.

    Returns:
        Seconds since the epoch.

    Raises:
        ValueError: If it is none of these, or in the past.
    """
    now = now or datetime.now()
    duration = _DURATION.fullmatch(text)
    if duration:
        return now.timestamp() + float(duration[1]) * _UNITS[duration[2]]
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
