import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.recipe import Promotion
from orchestrator.registry import Decision, Promoter, RegistryError, Verdict
from orchestrator.registry.champion import Ledger, Throne
from orchestrator.registry.evidence import EVIDENCE_TAG
from tests.orchestrator.registry.versions import NAME, Versions, measured

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

RULE = Promotion(max_accuracy_drop=0.02, min_flops_saved=0.1)


@pytest.fixture
def versions(uri: str) -> Versions:
    return Versions(uri)


def consider(versions: Versions, version: str, rule: Promotion = RULE, **how: bool) -> Decision:
    options = {"may_move": True, **how}
    return Promoter(versions.client, versions.uri, NAME).consider(version, rule, **options)


def throne_of(versions: Versions) -> Throne:
    return Ledger(versions.client, NAME).read()


def roll_back(versions: Versions) -> tuple[str, str]:
    done = Promoter(versions.client, versions.uri, NAME).roll_back()
    return done.version, done.instead_of


def test_the_first_version_that_the_rule_lets_through_is_the_champion(versions: Versions) -> None:
    version = versions.add(measured())
    found = consider(versions, version)
    assert found.verdict is Verdict.PROMOTED
    assert versions.champion() == version


def test_the_decision_stands_on_the_version_in_tags_and_in_words(versions: Versions) -> None:
    consider(versions, versions.add(measured()))
    version = versions.add(measured(wrong=40))
    found = consider(versions, version)
    tags = versions.tags(version)
    assert tags["gammaray.decision"] == "refused"
    assert tags["gammaray.decision.reason"] == found.reason
    assert tags["gammaray.decision.digest"] == found.digest
    assert Decision.from_json(json.loads(tags["gammaray.decision.document"])) == found
    text = str(versions.client.get_model_version(NAME, version).description)
    assert "## Promotion" in text
    assert "- dense twin: does not hold; accuracy -5.0 points" in text
    assert "- champion (version 1): does not hold" in text
    assert found.digest in text


def test_a_refused_version_leaves_the_champion(versions: Versions) -> None:
    first = versions.add(measured())
    consider(versions, first)
    assert consider(versions, versions.add(measured(wrong=40))).verdict is Verdict.REFUSED
    assert versions.champion() == first


def test_a_better_version_takes_the_place_of_the_champion(versions: Versions) -> None:
    consider(versions, versions.add(measured()))
    second = versions.add(measured(tflops=0.6))
    found = consider(versions, second)
    assert found.verdict is Verdict.PROMOTED
    assert found.champion == "1"
    assert versions.champion() == second


def test_a_rule_that_is_not_automatic_waits_for_a_person(versions: Versions) -> None:
    version = versions.add(measured())
    assert consider(versions, version, may_move=False).verdict is Verdict.ELIGIBLE
    assert versions.champion() is None
    assert consider(versions, version, is_by_hand=True).verdict is Verdict.PROMOTED
    assert versions.champion() == version


def test_asking_again_for_the_champion_changes_nothing(versions: Versions) -> None:
    consider(versions, versions.add(measured()))
    second = versions.add(measured(tflops=0.6))
    found = consider(versions, second)
    assert consider(versions, second) == found
    assert len(throne_of(versions).moves) == 2


def test_a_champion_that_a_stricter_rule_refuses_stays_and_says_how_to_take_it_back(
    versions: Versions,
) -> None:
    strict = Promotion(max_accuracy_drop=0.02, min_flops_saved=0.9)
    first = versions.add(measured())
    consider(versions, first)
    alone = consider(versions, first, strict)
    assert alone.verdict is Verdict.REFUSED
    assert alone.reason.endswith("it is still the champion, and none was before it")
    assert versions.tags(first)["gammaray.decision.reason"] == alone.reason
    assert consider(versions, first).verdict is Verdict.PROMOTED
    second = versions.add(measured(tflops=0.6))
    consider(versions, second)
    assert f"`gammaray register {NAME} --rollback`" in consider(versions, second, strict).reason
    assert versions.champion() == second
    assert roll_back(versions) == (first, second)


def test_a_champion_is_not_called_eligible_by_a_rule_that_waits_for_a_person(
    versions: Versions,
) -> None:
    version = versions.add(measured())
    consider(versions, version)
    stricter = Promotion(max_accuracy_drop=0.02, min_flops_saved=0.15)
    assert consider(versions, version, stricter, may_move=False).verdict is Verdict.PROMOTED
    assert len(throne_of(versions).moves) == 1


def test_the_alias_goes_back_along_the_line_of_champions(versions: Versions) -> None:
    for tflops in (0.8, 0.7, 0.6):
        consider(versions, versions.add(measured(tflops=tflops)))
    assert versions.champion() == "3"
    assert roll_back(versions) == ("2", "3")
    assert versions.tags("3")["gammaray.decision"] == "rolled back"
    assert "Rolled back at" in str(versions.client.get_model_version(NAME, "3").description)
    assert roll_back(versions) == ("1", "2")
    assert versions.champion() == "1"
    with pytest.raises(RegistryError, match="no champion before version 1 is known"):
        roll_back(versions)
    assert versions.champion() == "1"


def test_a_run_leaves_alone_what_a_person_rolled_back(versions: Versions) -> None:
    consider(versions, versions.add(measured()))
    second = versions.add(measured(tflops=0.6))
    consider(versions, second)
    roll_back(versions)
    refused = consider(versions, second)
    assert refused.verdict is Verdict.REFUSED
    assert f"gammaray register {NAME} --promote {second}" in refused.reason
    assert versions.champion() == "1"
    assert consider(versions, second, is_by_hand=True).verdict is Verdict.PROMOTED
    assert versions.champion() == second


def test_without_a_champion_there_is_nothing_to_roll_back(versions: Versions) -> None:
    versions.add(measured())
    with pytest.raises(RegistryError, match="nothing to roll back"):
        roll_back(versions)


def test_a_deleted_champion_is_a_decision_and_can_be_rolled_back(versions: Versions) -> None:
    for tflops in (0.8, 0.7):
        consider(versions, versions.add(measured(tflops=tflops)))
    versions.client.delete_model_version(NAME, "2")
    third = versions.add(measured(tflops=0.5))
    refused = consider(versions, third)
    assert refused.verdict is Verdict.REFUSED
    assert "champion (version 2): cannot be compared: it was deleted" in refused.reason
    assert versions.champion() is None
    assert roll_back(versions) == ("1", "2")
    assert consider(versions, third).verdict is Verdict.PROMOTED


def test_where_a_person_took_the_alias_away_there_is_no_champion(versions: Versions) -> None:
    consider(versions, versions.add(measured()))
    versions.client.delete_registered_model_alias(NAME, "champion")
    found = consider(versions, versions.add(measured()))
    assert found.champion is None
    assert versions.champion() == "2"


def test_a_champion_of_somebody_else_cannot_be_compared(versions: Versions) -> None:
    theirs = versions.add(None)
    versions.client.set_registered_model_alias(NAME, "champion", theirs)
    refused = consider(versions, versions.add(measured()))
    assert "cannot be compared: version 1 has no predictions to compare" in refused.reason
    assert versions.champion() == theirs


def test_a_candidate_without_predictions_is_an_error_and_changes_nothing(
    versions: Versions,
) -> None:
    version = versions.add(None)
    with pytest.raises(RegistryError, match="version 1 has no predictions to compare"):
        consider(versions, version)
    assert "gammaray.decision" not in versions.tags(version)
    with pytest.raises(RegistryError, match="there is no version 7"):
        consider(versions, "7")


def test_predictions_that_were_changed_are_refused(versions: Versions) -> None:
    version = versions.add(measured())
    versions.client.set_model_version_tag(NAME, version, EVIDENCE_TAG, "0" * 64)
    with pytest.raises(RegistryError, match="the predictions of version 1 cannot be read"):
        consider(versions, version)


def test_who_loses_a_race_compares_with_the_winner(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 2 becomes the champion after version 1 has decided and before it moves the alias."""
    slow, fast = versions.add(measured(tflops=0.8)), versions.add(measured(tflops=0.6))
    move = Ledger.move

    def late(*args: object, **how: object) -> bool:
        monkeypatch.setattr(Ledger, "move", move)
        assert consider(versions, fast).verdict is Verdict.PROMOTED
        return move(*args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Ledger, "move", late)
    found = consider(versions, slow)
    assert found.verdict is Verdict.REFUSED
    assert found.champion == fast
    assert versions.champion() == fast
    assert versions.tags(fast)["gammaray.decision"] == "promoted"
    assert versions.tags(slow)["gammaray.decision"] == "refused"


def test_an_alias_that_was_set_late_is_put_right_by_who_set_it(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 2 is promoted between the last look of version 1 and its setting of the alias."""
    slow, fast = versions.add(measured(tflops=0.8)), versions.add(measured(tflops=0.6))
    promoter = Promoter(versions.client, versions.uri, NAME)
    set_alias = versions.client.set_registered_model_alias

    def late(name: str, alias: str, version: str) -> None:
        monkeypatch.undo()
        assert consider(versions, fast).verdict is Verdict.PROMOTED
        set_alias(name, alias, version)

    monkeypatch.setattr(versions.client, "set_registered_model_alias", late)
    assert promoter.consider(slow, RULE, may_move=True).verdict is Verdict.PROMOTED
    assert versions.champion() == fast
    assert [move.version for move in throne_of(versions).moves] == [slow, fast]


def test_two_that_look_at_the_same_time_do_not_both_win(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 2 writes its move after version 1 has read the ledger for the last time."""
    slow, fast = versions.add(measured(tflops=0.8)), versions.add(measured(tflops=0.6))
    write = Ledger._write_once

    def late(ledger: Ledger, run_id: str, key: str, value: str) -> bool:
        monkeypatch.setattr(Ledger, "_write_once", write)
        assert consider(versions, fast).verdict is Verdict.PROMOTED
        return write(ledger, run_id, key, value)

    monkeypatch.setattr(Ledger, "_write_once", late)
    assert consider(versions, slow).verdict is Verdict.REFUSED
    assert versions.champion() == fast
    assert [move.version for move in throne_of(versions).moves] == [fast]


def test_a_move_whose_writer_died_is_finished_by_the_next_one(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = versions.add(measured(tflops=0.8))

    def dies(*_: object) -> None:
        raise ConnectionError("MLflow is away")

    with monkeypatch.context() as patch:
        patch.setattr(versions.client, "set_registered_model_alias", dies)
        with pytest.raises(ConnectionError):
            consider(versions, first)
    assert versions.champion() is None
    found = consider(versions, versions.add(measured(tflops=0.799)))
    assert found.champion == first
    assert versions.champion() == first


def test_many_at_once_end_with_one_champion_and_every_decision(versions: Versions) -> None:
    names = [versions.add(measured(tflops=0.8 - 0.05 * n)) for n in range(5)]
    with ThreadPoolExecutor(len(names)) as pool:
        decisions = dict(zip(names, pool.map(lambda v: consider(versions, v), names), strict=True))
    throne = throne_of(versions)
    assert throne.last is not None
    # The cheapest one beats whoever was before it, in whatever order they came.
    assert versions.champion() == throne.last.version == names[-1]
    promoted = {move.version for move in throne.moves}
    for name, decision in decisions.items():
        assert versions.tags(name)["gammaray.decision"] == str(decision.verdict)
        assert (decision.verdict is Verdict.PROMOTED) == (name in promoted)


@pytest.mark.slow
def test_two_processes_at_once_end_with_one_champion(versions: Versions) -> None:
    names = [versions.add(measured(tflops=tflops)) for tflops in (0.8, 0.7)]
    code = f"""
import sys
from mlflow import MlflowClient
from orchestrator.recipe import Promotion
from orchestrator.registry import Promoter
Promoter(MlflowClient({versions.uri!r}), {versions.uri!r}, {NAME!r}).consider(
    sys.argv[1], Promotion(max_accuracy_drop=0.02), may_move=True)
"""
    root = Path(__file__).parents[3]
    running = [
        subprocess.Popen([sys.executable, "-c", code, name], cwd=root, stderr=subprocess.DEVNULL)
        for name in names
    ]
    assert [process.wait(120) for process in running] == [0, 0]
    assert versions.champion() == "2"
    assert all("gammaray.decision" in versions.tags(name) for name in names)
