import json
from pathlib import Path

import pytest

from orchestrator.cli import ExitCode, main


def test_help_names_every_verb_with_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    verbs = (
        "arank",
        "run",
        "serve",
        "plan",
        "explain",
        "status",
        "list",
        "config",
        "data",
        "submit",
        "doctor",
    )
    for verb in verbs:
        assert f"\n    {verb} " in shown, verb


def test_a_wrong_recipe_key_ends_with_the_usage_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["config", "show", "digits", "finetune.step=1"]) == ExitCode.WRONG_USAGE
    assert "did you mean 'steps'?" in capsys.readouterr().err


def test_an_unwritable_store_ends_with_the_usage_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["list", "--store", str(tmp_path / "file")]) == ExitCode.WRONG_USAGE
    assert "file" in capsys.readouterr().err


def test_show_prints_values_that_resolve_to_the_same_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "show", "digits"]) == ExitCode.DONE
    shown = tmp_path / "shown.yaml"
    shown.write_text(capsys.readouterr().out)
    assert main(["config", "show", str(shown), "--json"]) == ExitCode.DONE
    resolved = json.loads(capsys.readouterr().out)
    assert main(["config", "show", "digits", "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out) == resolved


def test_the_schema_knows_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == ExitCode.DONE
    assert {"align", "mod", "finetune", "register"} <= json.loads(capsys.readouterr().out)[
        "properties"
    ].keys()


def test_plan_shows_that_a_new_store_has_to_do_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "digits", "--store", str(tmp_path), "--json"]) == ExitCode.DONE
    plan = json.loads(capsys.readouterr().out)
    assert [stage["action"] for stage in plan["stages"][:2]] == ["run", "wait"]
    assert plan["resources"]["workers"] == 2


def test_a_run_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "nothing", "--store", str(tmp_path)]) == ExitCode.WRONG_USAGE
    assert "has no run 'nothing'" in capsys.readouterr().err
