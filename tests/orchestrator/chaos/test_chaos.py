"""A short schedule with every kind of fault: the whole command, as a user gives it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.orchestrator.small_run import OVERRIDES

pytestmark = pytest.mark.ray


def test_a_run_under_every_kind_of_fault_leaves_what_an_undisturbed_one_does(
    tmp_path: Path,
) -> None:
    gammaray = str(Path(sys.executable).with_name("gammaray"))
    command = [gammaray, "chaos", "digits", *OVERRIDES, "--faults", "10", "--json"]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = json.loads(done.stdout)
    assert shown["passed"]
    assert set(shown["faults"].values()) == {1}
