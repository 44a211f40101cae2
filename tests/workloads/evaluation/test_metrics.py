import pytest

from workloads.evaluation import EvaluationError, Prediction, matches, score


@pytest.mark.parametrize(
    ("expected", "answer", "same"),
    [
        ("yes", "Yes.", True),
        ("7", " 7\n", True),
        ("two  digits", "two digits", True),
        ("7", "77", False),
        ("7", "", False),
        ("3.5", "35", False),
    ],
)
def test_answers_match_but_for_case_spaces_and_a_final_stop(
    expected: str, answer: str, same: bool
) -> None:
    assert matches(expected, answer) is same


def test_accuracy_is_counted_over_all_and_by_tag() -> None:
    outcomes = [("sum", True), ("count", False), ("sum", False), ("count", True), ("sum", True)]
    scores = score([Prediction(str(i), tag, "a", "b", ok) for i, (tag, ok) in enumerate(outcomes)])
    assert scores.to_json() == {
        "accuracy": 0.6,
        "questions": 5,
        "by_kind": {
            "count": {"accuracy": 0.5, "questions": 2},
            "sum": {"accuracy": 2 / 3, "questions": 3},
        },
    }


def test_no_answers_have_no_accuracy() -> None:
    with pytest.raises(EvaluationError, match="no answers"):
        score([])
