"""``gammaray`` in a process whose wall clock jumps when it is told to.

python -m orchestrator.chaos OFFSET_FILE run RECIPE ...
"""

import runpy
import sys
from pathlib import Path

from orchestrator.chaos.clock import follow

if __name__ == "__main__":
    follow(Path(sys.argv.pop(1)))
    runpy.run_module("orchestrator.cli", run_name="__main__", alter_sys=True)
