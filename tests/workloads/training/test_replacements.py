import json
from collections.abc import Sequence
from dataclasses import dataclass

from workloads.data import Replacement
from workloads.training import Ranks
from workloads.training.replacements import all_replaced


@dataclass
class Known:
    """Batches, as far as a list looks at them."""

    replaced: list[Replacement]


def replacement(step: int, position: int = 0) -> Replacement:
    return Replacement(step, position, f"bad-{step}", f"good-{step}", "is damaged")


class TwoRanks(Ranks):
    """Gathers what two ranks know, some of it both."""

    def gather(self, value: Sequence[Replacement]) -> list[Sequence[Replacement]]:
        return [value, [replacement(2, 1), replacement(1)]]


def test_what_two_ranks_know_is_listed_once_and_in_the_order_of_training() -> None:
    batches = Known([replacement(2), replacement(1)])
    listed = all_replaced(batches, TwoRanks())  # type: ignore[arg-type]
    assert [(each["step"], each["position"]) for each in listed] == [(1, 0), (2, 0), (2, 1)]
    assert json.loads(json.dumps(listed[0])) == {
        "step": 1,
        "position": 0,
        "sample": "bad-1",
        "by": "good-1",
        "reason": "is damaged",
    }
