from dataclasses import replace

import pytest

from orchestrator.recipe import Promotion
from orchestrator.registry.decision import Decision, Rival, Verdict, decide
from orchestrator.registry.evidence import Evidence
from tests.orchestrator.registry.versions import NAME, measured

RULE = Promotion(max_accuracy_drop=0.02, min_flops_saved=0.2)


def decision(evidence: Evidence, champion: Rival | None = None, rule: Promotion = RULE) -> Decision:
    return decide(NAME, "2", evidence, champion=champion, rule=rule, may_move=True)


def champion(**figures: object) -> Rival:
    return Rival(version="1", evidence=measured(**figures))  # type: ignore[arg-type]


def test_a_model_as_good_as_its_twin_and_cheaper_is_promoted() -> None:
    found = decision(measured())
    assert found.verdict is Verdict.PROMOTED
    assert found.reason == "dense twin: accuracy +0.0 points [+0.0, +0.0], 25.0% fewer FLOPs"


def test_the_bound_of_the_interval_decides_and_not_the_mean() -> None:
    # One point worse on average, which is allowed; but 40 answers differ, so it may be 2.5.
    uncertain = measured(wrong=22, dense_wrong=18, apart=18)
    found = decision(uncertain)
    accuracy = found.comparisons[0].accuracy
    assert accuracy is not None
    assert accuracy.mean == pytest.approx(-0.01)
    assert found.verdict is Verdict.REFUSED
    assert "so it may be" in found.reason
    assert "max_accuracy_drop is 2 points" in found.reason
    # The same mean, as 4 answers differ.
    assert decision(measured(wrong=22, dense_wrong=18)).verdict is Verdict.PROMOTED


@pytest.mark.parametrize(
    ("figures", "rule", "reason"),
    [
        ({"tflops": 0.85}, {}, "saves 15.0% of the FLOPs, min_flops_saved is 20.0%"),
        ({}, {"max_prefill_ratio": 0.8}, "its prefill takes × 0.90 of the time"),
        ({"prefill_ratio": None}, {"max_prefill_ratio": 0.8}, "its prefill was not measured"),
        ({"questions": 50}, {}, "50 questions decide nothing, min_questions is 100"),
    ],
)
def test_a_bound_that_does_not_hold_refuses_and_is_named(
    figures: dict[str, object], rule: dict[str, object], reason: str
) -> None:
    found = decision(measured(**figures), rule=RULE.model_copy(update=rule))  # type: ignore[arg-type]
    assert found.verdict is Verdict.REFUSED
    assert reason in found.reason


def test_twins_that_answered_other_questions_cannot_be_compared() -> None:
    evidence = measured()
    found = decision(replace(evidence, dense=evidence.dense[:-1]))
    assert found.reason.startswith("dense twin: cannot be compared: the twins did not answer")


def test_a_cheaper_model_as_accurate_takes_the_place_of_the_champion() -> None:
    found = decision(measured(tflops=0.6), champion(tflops=0.75))
    assert found.verdict is Verdict.PROMOTED
    assert found.comparisons[1].flops_saved == pytest.approx(0.2)
    assert found.champion == "1"


def test_a_surely_more_accurate_model_at_the_same_cost_does_so_too() -> None:
    found = decision(measured(wrong=4, dense_wrong=4), champion(wrong=24))
    assert found.verdict is Verdict.PROMOTED


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({}, "no gain: it saves 0.0% of the champion's FLOPs"),
        ({"wrong": 19}, "is not surely more accurate"),
        ({"wrong": 4, "tflops": 0.78}, "no gain: it saves -4.0%"),
        ({"tflops": 0.5, "wrong": 40, "dense_wrong": 40}, "max_accuracy_drop"),
    ],
)
def test_without_a_gain_the_champion_stays(figures: dict[str, object], reason: str) -> None:
    found = decision(measured(**figures), champion())  # type: ignore[arg-type]
    assert found.verdict is Verdict.REFUSED
    assert found.reason.startswith("champion (version 1): ")
    assert reason in found.reason


@pytest.mark.parametrize(
    ("rival", "reason"),
    [
        (champion(questions=300), "measured on other samples (300 of 400 questions in common)"),
        (champion(expected="7"), "measured on other samples (0 of 400 questions in common)"),
        (champion(prompts=8), "its FLOPs are the mean over 8 samples"),
        (Rival(version="1", problem="it was deleted"), "it was deleted"),
    ],
)
def test_a_champion_that_says_nothing_of_the_candidate_is_not_overthrown(
    rival: Rival, reason: str
) -> None:
    found = decision(measured(tflops=0.5), rival)
    assert found.verdict is Verdict.REFUSED
    assert f"champion (version 1): cannot be compared: {reason}" in found.reason.replace(
        "it was measured", "measured"
    )


def test_a_rule_without_the_champion_looks_at_the_twin_alone() -> None:
    rule = RULE.model_copy(update={"against_champion": False})
    found = decision(measured(), champion(questions=300), rule)
    assert found.verdict is Verdict.PROMOTED
    assert len(found.comparisons) == 1


def test_a_rule_that_holds_may_wait_for_a_person() -> None:
    found = decide(NAME, "2", measured(), champion=None, rule=RULE, may_move=False)
    assert found.verdict is Verdict.ELIGIBLE


def test_a_decision_survives_being_written_down() -> None:
    found = decision(measured(wrong=30), champion())
    assert Decision.from_json(found.to_json()) == found
    later = replace(found, decided_at="2027-01-01T00:00:00.000+00:00")
    assert later.digest == found.digest
    assert replace(found, reason="another").digest != found.digest
