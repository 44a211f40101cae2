import re
from pathlib import Path

import pytest

from orchestrator.cli import ExitCode, main


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["digits", "--faults", "0"], "--faults must be at least 1, got 0"),
        (["digits", "--folder", "{}"], "is not empty: every series has a folder of its own"),
        (["digits", "--out", "{}/file/page.md"], "cannot write .*page.md"),
        (["digits", "mod.capacity_ratio=2"], "mod.capacity_ratio"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    (tmp_path / "file").touch()
    given = [argument.format(tmp_path) for argument in arguments]
    assert main(["chaos", *given]) == ExitCode.WRONG_USAGE
    assert re.search(reason, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
