"""What two models' answers to the same questions say together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_Z95 = 1.96


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """The same questions, answered by both twins."""

    both: int
    only_dense: int
    only_mod: int
    neither: int

    @classmethod
    def of(
        cls, dense: Sequence[Mapping[str, Any]], mod: Sequence[Mapping[str, Any]]
    ) -> "Agreement":
        """Count over the questions that both were asked, by id."""
        right = {item["id"]: bool(item["is_correct"]) for item in dense}
        pairs = [(right[m["id"]], bool(m["is_correct"])) for m in mod if m["id"] in right]
        return cls(
            both=pairs.count((True, True)),
            only_dense=pairs.count((True, False)),
            only_mod=pairs.count((False, True)),
            neither=pairs.count((False, False)),
        )

    @property
    def questions(self) -> int:
        """How many were compared."""
        return self.both + self.only_dense + self.only_mod + self.neither

    @property
    def change(self) -> float:
        """Accuracy of the MoD model minus that of its dense twin."""
        return (self.only_mod - self.only_dense) / self.questions if self.questions else 0.0

    @property
    def margin(self) -> float:
        """Half width of the change's 95 % interval.

        The standard error of a paired difference: only questions on which the twins disagree
        add to it, so it is far below that of two separate samples.
        """
        if not self.questions:
            return 0.0
        disagreed = self.only_mod + self.only_dense
        variance = disagreed - (self.only_mod - self.only_dense) ** 2 / self.questions
        return _Z95 * math.sqrt(max(variance, 0.0)) / self.questions
