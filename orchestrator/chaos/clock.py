"""A wall clock that can be wrong."""

import time
from pathlib import Path

_true_time = time.time


def set_clock(offset_file: Path, seconds: float) -> None:
    """Make the clock of those processes be off by so many seconds from now on."""
    aside = offset_file.with_suffix(".new")
    aside.write_text(repr(seconds))
    aside.replace(offset_file)


def follow(offset_file: Path) -> None:
    """Let this process's `time.time` be off by the seconds in a file; no file means none."""

    def jumping_time() -> float:
        try:
            return _true_time() + float(offset_file.read_text())
        except FileNotFoundError:
            return _true_time()

    time.time = jumping_time
