"""Into which bracket of HyperBand a trial goes, and how many go into each."""

from collections.abc import Sequence

from orchestrator.search_space import EarlyStopping


def shares(early: EarlyStopping, steps: int) -> tuple[int, ...]:
    """How many trials of a round each bracket gets; the one that stops soonest comes first.

    As in HyperBand (arXiv 1603.06560, algorithm 1): each bracket makes its first comparison
    ``reduction`` times later than the one before, the last one near the end or not at all, and
    all get about as much of the whole budget.
    """
    if early.method == "asha":
        return (1,)
    last = 0
    while early.grace * early.reduction ** (last + 1) <= steps:
        last += 1
    # ceil((last + 1) / (halvings + 1) * reduction ** halvings), in whole numbers
    return tuple(
        -(-(last + 1) * early.reduction**halvings // (halvings + 1))
        for halvings in range(last, -1, -1)
    )


def bracket_of(number: int, of_a_round: Sequence[int]) -> int:
    """The bracket of a trial: at every number each has had its share, as nearly as can be."""
    had = [0] * len(of_a_round)
    whole = sum(of_a_round)
    for position in range(number % whole + 1):
        owed = [share * (position + 1) / whole - had[i] for i, share in enumerate(of_a_round)]
        chosen = owed.index(max(owed))
        had[chosen] += 1
    return chosen
