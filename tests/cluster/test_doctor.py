import argparse
import json
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from cluster import checks, doctor
from cluster.checks import Finding, Level, check_cluster, check_machine

Usage = namedtuple("Usage", ["total", "used", "free"])


def findings(folder: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in check_machine(folder)}


def run_doctor(*words: str) -> int:
    parser = argparse.ArgumentParser()
    doctor.configure(parser)
    args = parser.parse_args(words)
    args.environment = {}
    return doctor.execute(args)


def test_this_machine_can_run_the_tests(tmp_path: Path) -> None:
    found = findings(tmp_path)
    assert [name for name, finding in found.items() if finding.level is Level.FAIL] == []
    assert {"python", "cpus", "memory", "disk", "torch", "ray", "gpu", "g++", "ninja"} <= set(found)


def test_every_requirement_of_the_distribution_is_looked_at(tmp_path: Path) -> None:
    assert findings(tmp_path)["torch"].found == metadata.version("torch")
    assert "pytest" not in findings(tmp_path)


def test_a_missing_package_fails_with_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: ["nonesuch>=2; python_version>'3'"])
    finding = findings(tmp_path)["nonesuch"]
    assert finding.level is Level.FAIL
    assert finding.found == "not installed"
    assert finding.fix.startswith("pip install -c constraints.txt")


def test_a_wrong_version_fails_with_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: ["pytest>=1000"])
    finding = findings(tmp_path)["pytest"]
    assert finding.level is Level.FAIL
    assert finding.found.endswith("but >=1000 is needed")


def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.checks.shutil.disk_usage", lambda _: Usage(1, 1, 0))
    assert findings(tmp_path)["disk"].level is Level.WARN


def test_the_disk_of_a_folder_to_be_is_that_of_its_parents(tmp_path: Path) -> None:
    assert findings(tmp_path / "a" / "b")["disk"].found.endswith(f"at {tmp_path}")


@pytest.mark.parametrize(("gpus", "level"), [([], Level.FAIL), (["H100"], Level.WARN)])
def test_a_compiler_is_required_where_deepspeed_runs_on_the_cpu(
    gpus: list[str], level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_tool(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr("cluster.checks.shutil.which", no_tool)
    monkeypatch.setattr(checks, "_gpus", lambda: gpus)
    assert findings(tmp_path)["g++"].level is level
    assert findings(tmp_path)["ninja"].level is level


def test_an_address_where_nothing_answers_fails() -> None:
    finding = check_cluster("http://127.0.0.1:9", {})
    assert finding.level is Level.FAIL
    assert "cannot be reached" in finding.fix


def report(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor("--json") == 0
    printed = report(capsys)
    assert printed["healthy"] is True
    assert printed["findings"][0]["check"] == "python"
    assert set(printed["findings"][0]) == {"check", "level", "found", "fix"}


def test_a_failure_shows_in_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor("--address", "http://127.0.0.1:9", "--json") == 1
    assert report(capsys)["healthy"] is False


def test_the_table_puts_the_fix_under_its_finding(capsys: pytest.CaptureFixture[str]) -> None:
    run_doctor("--address", "http://127.0.0.1:9")
    *_, finding, fix = capsys.readouterr().out.splitlines()
    assert finding.startswith("fail  ray cluster")
    assert "->" in fix
