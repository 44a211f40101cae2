"""``gammaray`` in a process whose wall clock jumps when it is told to.

    python -m orchestrator.chaos.clock OFFSET_FILE run RECIPE ...

``OFFSET_FILE`` holds the seconds by which `time.time` is off; no file means none.
"""

import runpy
import sys
import time
from pathlib import Path

_true_time = time.time


def set_clock(offset_file: Path, seconds: float) -> None:
    """Make the clock of those processes be off by so many seconds from now on."""
    aside = offset_file.with_suffix(".new")
    aside.write_text(repr(seconds))
    aside.replace(offset_file)


def main() -> None:
    """Run the command line with that clock."""
    offset_file = Path(sys.argv.pop(1))

    def jumping_time() -> float:
        try:
            return _true_time() + float(offset_file.read_text())
        except FileNotFoundError:
            return _true_time()

    time.time = jumping_time
    runpy.run_module("orchestrator.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
