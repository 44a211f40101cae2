"""Scores of answers: exact match after forgiving case, spaces and a final stop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workloads.evaluation.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer to one question."""

    id: str
    tag: str
    """What kind of question it is, for accuracy by kind."""
    expected: str
    answer: str
    is_correct: bool


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of questions answered correctly."""

    correct: int
    questions: int

    @property
    def value(self) -> float:
        """In [0, 1]."""
        return self.correct / self.questions

    def to_json(self) -> dict[str, Any]:
        """Accuracy and the number of questions it is over."""
        return {"accuracy": self.value, "questions": self.questions}


@dataclass(frozen=True, slots=True)
class Scores:
    """Accuracy over all questions and by tag."""

    overall: Accuracy
    by_tag: Mapping[str, Accuracy]
    """In alphabetical order of tags."""

    def to_json(self) -> dict[str, Any]:
        """As in ``metrics.json``: the overall figures beside ``by_kind``."""
        kinds = {tag: accuracy.to_json() for tag, accuracy in self.by_tag.items()}
        return {**self.overall.to_json(), "by_kind": kinds}


def matches(expected: str, answer: str) -> bool:
    """Whether two answers are the same but for case, spaces and a final stop."""
    return _normalized(expected) == _normalized(answer)


def score(predictions: Sequence[Prediction]) -> Scores:
    """Count correct answers, over all and by tag.

    Raises:
        EvaluationError: If there is no prediction: no accuracy is better than a made-up one.
    """
    if not predictions:
        raise EvaluationError("there are no answers to score; the evaluation data is empty")
    tags = sorted({prediction.tag for prediction in predictions})
    by_tag = {tag: _count([item for item in predictions if item.tag == tag]) for tag in tags}
    return Scores(_count(predictions), by_tag)


def _count(predictions: Sequence[Prediction]) -> Accuracy:
    return Accuracy(sum(item.is_correct for item in predictions), len(predictions))


def _normalized(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".").rstrip()
