import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.scratch import scratch, sweep

KILLED = """
import os, signal
from orchestrator.scratch import scratch
with scratch() as folder:
    (folder / "half").write_text("written")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_libraries_use_it_too_and_it_is_gone_afterwards(temporary: Path) -> None:
    with scratch() as folder, tempfile.TemporaryDirectory() as inner:
        assert Path(inner).parent == folder
    assert tempfile.gettempdir() == str(temporary)
    assert not list(temporary.iterdir())


def test_what_a_killed_process_left_is_removed(temporary: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert len(list(temporary.glob("gammaray-*/half"))) == 1
    sweep()
    assert not list(temporary.iterdir())


def test_what_a_living_process_uses_stays(temporary: Path) -> None:
    with scratch() as folder:
        tempfile.tempdir = str(temporary)
        sweep()
        assert folder.exists()


def test_folders_of_others_stay(temporary: Path) -> None:
    (temporary / "gammaray-mine").mkdir()
    (temporary / "gammaray-00000000-1-1-x").mkdir()
    sweep()
    assert len(list(temporary.iterdir())) == 2
