import json
from pathlib import Path

import pytest

from orchestrator.cli import ExitCode, main
from tests.orchestrator.registry.versions import NAME, Versions, measured

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

RULE = ["--rule", "max_accuracy_drop=0.02", "min_flops_saved=0.1"]


@pytest.fixture
def versions(uri: str) -> Versions:
    return Versions(uri)


@pytest.fixture
def store(versions: Versions, tmp_path: Path) -> list[str]:
    """What makes the command find the versions."""
    return ["--store", str(tmp_path)]


def candidate(versions: Versions, **figures: float) -> str:
    version = versions.add(measured(**figures))  # type: ignore[arg-type]
    versions.client.set_registered_model_alias(NAME, "candidate", version)
    return version


def test_the_candidate_is_promoted_where_the_rule_holds(
    versions: Versions, store: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    version = candidate(versions)
    assert main(["register", NAME, "--promote", *RULE, *store]) == ExitCode.DONE
    assert f"{NAME} version {version} promoted: dense twin" in capsys.readouterr().out
    assert versions.champion() == version


def test_a_refused_promotion_ends_with_1_and_the_reason(
    versions: Versions, store: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    candidate(versions, wrong=40)
    assert main(["register", NAME, "--promote", "1", *RULE, *store, "--json"]) == ExitCode.FAILED
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "refused"
    assert "max_accuracy_drop is 2 points" in document["reason"]
    assert versions.champion() is None


def test_a_later_check_goes_by_the_rule_that_the_version_has(
    versions: Versions, store: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    candidate(versions, wrong=40)
    assert main(["register", NAME, "--promote", *RULE, *store]) == ExitCode.FAILED
    assert main(["register", NAME, "--promote", *store]) == ExitCode.FAILED
    capsys.readouterr()
    looser = ["--rule", "max_accuracy_drop=0.1", "--json"]
    assert main(["register", NAME, "--promote", *looser, *store]) == ExitCode.DONE
    rule = json.loads(capsys.readouterr().out)["rule"]
    assert (rule["max_accuracy_drop"], rule["min_flops_saved"]) == (0.1, 0.1)


def test_one_command_gives_the_alias_back(
    versions: Versions, store: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for tflops in (0.8, 0.6):
        candidate(versions, tflops=tflops)
        assert main(["register", NAME, "--promote", *RULE, *store]) == ExitCode.DONE
    capsys.readouterr()
    assert main(["register", NAME, "--rollback", "--json", *store]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out) == {
        "name": NAME,
        "champion": "1",
        "instead_of": "2",
    }
    assert versions.champion() == "1"


def test_the_versions_are_shown_with_their_decisions(
    versions: Versions, store: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    candidate(versions)
    main(["register", NAME, "--promote", *RULE, *store])
    candidate(versions)
    capsys.readouterr()
    assert main(["register", NAME, "--json", *store]) == ExitCode.DONE
    newest, oldest = json.loads(capsys.readouterr().out)["versions"]
    assert (newest["version"], newest["aliases"]) == ("2", ["candidate"])
    assert (oldest["aliases"], oldest["decision"]) == (["champion"], "promoted")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([NAME, "--promote"], "registered without a promotion rule (register.promote"),
        ([NAME, "--promote", "9", *RULE], "there is no version 9"),
        ([NAME, "--promote", "best", *RULE], "no version has the alias 'best'; the aliases are"),
        (["nobody", "--rollback"], "registered model 'nobody': there is none of this name"),
        ([NAME, "--rollback"], "nothing to roll back"),
        ([NAME, "--promote", "--rule", "max_drop=1"], "--rule: max_drop: Extra inputs"),
        ([NAME, "--promote", "--rule", "confidence=95"], "--rule: confidence: Input should be"),
        ([NAME, "--promote", "--rule", "confidence"], "expected key=value"),
        ([NAME, "--export", "."], "give a new or an empty folder"),
    ],
)
def test_what_cannot_be_done_is_said(
    versions: Versions,
    store: list[str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    reason: str,
) -> None:
    candidate(versions)
    assert main(["register", *arguments, *store]) == ExitCode.WRONG_USAGE
    assert reason in capsys.readouterr().err
    assert versions.champion() is None


def test_a_registry_that_is_not_there_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["register", NAME, "--store", str(tmp_path / "empty")]
    assert main(asked) == ExitCode.WRONG_USAGE
    assert "there is no such database" in capsys.readouterr().err
    assert not list(tmp_path.rglob("mlflow.db"))


def test_a_registry_that_is_away_may_be_back_later(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["register", NAME, "--rollback", "--tracking-uri", "http://me:hidden@127.0.0.1:1"]
    assert main(asked) == ExitCode.RESUMABLE
    said = capsys.readouterr().err
    assert "MLflow at http://127.0.0.1:1: cannot be reached" in said
    assert "hidden" not in said
