import json
import sys
from pathlib import Path

import pytest

from cluster.errors import ClusterError, UsageError
from cluster.plan import Plan, read_plan

RESOURCES = {
    "workers": 2,
    "cpus_per_worker": 1,
    "gpus_per_worker": 0,
    "memory_gb_per_worker": 3.5,
}
PLAN = {
    "run_id": "digits-1",
    "recipe": "digits",
    "store": "/s",
    "resources": RESOURCES,
    "stages": [],
}


def test_reads_what_the_command_line_prints() -> None:
    plan = Plan.from_json(json.dumps(PLAN))
    assert plan == Plan(
        run_id="digits-1",
        recipe="digits",
        store="/s",
        workers=2,
        cpus_per_worker=1.0,
        gpus_per_worker=0.0,
        memory_gb_per_worker=3.5,
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        json.dumps({key: value for key, value in PLAN.items() if key != "run_id"}),
        json.dumps(PLAN | {"resources": RESOURCES | {"cpus_per_worker": "1"}}),
        json.dumps(PLAN | {"resources": RESOURCES | {"gpus_per_worker": -1}}),
    ],
)
def test_refuses_what_is_no_plan(text: str) -> None:
    with pytest.raises(ClusterError, match="printed something else than a plan"):
        Plan.from_json(text)


def test_refuses_a_plan_without_machines() -> None:
    text = json.dumps(PLAN | {"resources": RESOURCES | {"workers": 0}})
    with pytest.raises(ClusterError, match="no machine at all"):
        Plan.from_json(text)


def install_gammaray(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Put a command named gammaray beside a pretended interpreter."""
    script = folder / "gammaray"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))


def test_asks_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_gammaray(
        tmp_path,
        monkeypatch,
        f'[ "$*" = "plan digits seed=1 --json" ] && echo \'{json.dumps(PLAN)}\'',
    )
    assert read_plan("digits", ["seed=1"]).run_id == "digits-1"


@pytest.mark.parametrize(("code", "kind"), [(2, UsageError), (1, ClusterError)])
def test_passes_on_why_there_is_no_plan(
    code: int, kind: type[ClusterError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_gammaray(tmp_path, monkeypatch, f"echo 'no such recipe' >&2; exit {code}")
    with pytest.raises(ClusterError, match="no such recipe") as caught:
        read_plan("nonesuch", [])
    assert type(caught.value) is kind


def test_says_when_there_is_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="no gammaray command"):
        read_plan("digits", [])
