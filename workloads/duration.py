"""Times as people write them."""

import re

_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|h)")


def parse_duration(text: str) -> float | None:
    """Seconds in ``90 s``, ``10min`` or ``2h``; None if it is no duration."""
    match = _DURATION.fullmatch(text)
    return float(match[1]) * _UNITS[match[2]] if match else None
