import pytest

from orchestrator.report.agreement import Agreement


def answers(*right: bool) -> list[dict[str, object]]:
    return [{"id": str(index), "is_correct": is_right} for index, is_right in enumerate(right)]


def test_questions_are_compared_by_id() -> None:
    dense = answers(True, True, False, False)
    mod = list(reversed(answers(True, False, True, False)))
    pairs = Agreement.of(dense, mod)
    assert (pairs.both, pairs.only_dense, pairs.only_mod, pairs.neither) == (1, 1, 1, 1)


def test_a_question_that_only_one_was_asked_does_not_count() -> None:
    assert Agreement.of(answers(True, True), answers(True)).questions == 1


def test_the_margin_grows_with_disagreement_not_with_the_number_of_errors() -> None:
    agreed = Agreement(both=500, only_dense=0, only_mod=0, neither=500)
    split = Agreement(both=900, only_dense=60, only_mod=40, neither=0)
    assert agreed.margin == 0.0
    assert split.change == pytest.approx(-0.02)
    assert split.margin == pytest.approx(1.96 * (100 - 400 / 1000) ** 0.5 / 1000)


def test_nothing_asked_changes_nothing() -> None:
    nothing = Agreement.of([], [])
    assert (nothing.change, nothing.margin) == (0.0, 0.0)
