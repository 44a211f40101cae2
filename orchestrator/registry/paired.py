"""How sure a difference in accuracy is that two models show on the same questions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """Accuracy of one model minus that of another, with a bootstrap interval."""

    questions: int
    mean: float
    """In [-1, 1]; negative where the first model is right less often."""
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """The fields as plain values."""
        return asdict(self)


def paired_difference(
    correct: Sequence[bool],
    other: Sequence[bool],
    *,
    confidence: float,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Percentile interval of the paired bootstrap (Efron & Tibshirani 1993, chapter 13).

    With ``d_i = correct_i - other_i``, questions are drawn ``resamples`` times with replacement
    and ``mean(d)`` is taken of each draw; the interval reaches from the ``(1 - confidence) / 2`` to
    the ``(1 + confidence) / 2`` quantile of these means. As every ``d_i`` is -1, 0 or 1, a draw is
    fully told by how often each of the three comes up, which is multinomial with the shares seen:
    so the counts are drawn, and not the questions. That pairing tests on the same samples is much
    sharper than comparing two accuracies is shown by Koehn (2004, EMNLP) for translation.

    Questions are taken as independent: several about one image are less so, and the true interval
    is then somewhat wider.

    Args:
        correct: Whether the first model was right, by question.
        other: The same for the second one, in the same order.
        confidence: Of the two-sided interval, in (0, 1).
        resamples: How many draws.
        seed: The same seed gives the same interval.

    Raises:
        ValueError: If there is no question, or not one answer of each model to every question.
    """
    if len(correct) != len(other) or not correct:
        raise ValueError(
            "expected the answers of both models to the same questions, at least one; "
            f"got {len(correct)} and {len(other)}"
        )
    difference = np.asarray(correct, dtype=int) - np.asarray(other, dtype=int)
    count = len(difference)
    shares = [float(np.mean(difference == value)) for value in (-1, 0, 1)]
    drawn = np.random.default_rng(seed).multinomial(count, shares, size=resamples)
    means = (drawn[:, 2] - drawn[:, 0]) / count
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return PairedDifference(
        questions=count, mean=float(difference.mean()), low=float(low), high=float(high)
    )
