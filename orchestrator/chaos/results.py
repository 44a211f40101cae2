"""What a series of disturbed runs showed, as a page and as plain values."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.chaos.arena import Round
from orchestrator.chaos.faults import FaultKind
from orchestrator.chaos.verdict import Verdict

_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """The undisturbed run and the disturbed ones."""

    undisturbed: Round
    disturbed: Sequence[Round]

    @property
    def verdicts(self) -> list[Verdict]:
        """One for each disturbed run, in order."""
        return [self._verdict(disturbed) for disturbed in self.disturbed]

    @property
    def passed(self) -> bool:
        """Whether every run ended as the undisturbed one did."""
        return not any(verdict.differences for verdict in self.verdicts)

    @property
    def inflicted(self) -> Counter[FaultKind]:
        """Faults by kind, over all runs."""
        return sum((disturbed.inflicted for disturbed in self.disturbed), Counter())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "passed": self.passed,
            "faults": {str(kind): self.inflicted[kind] for kind in FaultKind},
            "undisturbed_seconds": self.undisturbed.seconds,
            "runs": [
                {
                    "faults": disturbed.inflicted.total(),
                    "starts": disturbed.starts,
                    "exit_codes": disturbed.exit_codes,
                    "seconds": disturbed.seconds,
                    "differences": list(verdict.differences),
                }
                for disturbed, verdict in zip(self.disturbed, self.verdicts, strict=True)
            ],
        }

    def tables(self) -> str:
        """Two tables in Markdown: faults by kind, and run by run."""
        kinds = [f"| {kind} | {self.inflicted[kind]} |" for kind in FaultKind]
        runs = [
            f"| {number} | {disturbed.inflicted.total()} | {disturbed.starts} "
            f"| {disturbed.seconds:.0f} | {_said(verdict)} |"
            for number, (disturbed, verdict) in enumerate(
                zip(self.disturbed, self.verdicts, strict=True), start=1
            )
        ]
        return "\n".join(
            [
                "| fault | times |",
                "|---|---|",
                *kinds,
                f"| **all** | **{self.inflicted.total()}** |",
                "",
                "| run | faults | drivers started | seconds | digests, MLflow, leftovers |",
                "|---|---|---|---|---|",
                f"| undisturbed | 0 | {self.undisturbed.starts} "
                f"| {self.undisturbed.seconds:.0f} | |",
                *runs,
                "",
            ]
        )

    def _verdict(self, disturbed: Round) -> Verdict:
        if disturbed.remains is None or self.undisturbed.remains is None:
            codes = ", ".join(map(str, disturbed.exit_codes))
            failed = f"the run did not succeed; its drivers ended with {codes}"
            return Verdict((*disturbed.trouble, failed))
        compared = Verdict.on(disturbed.remains, self.undisturbed.remains)
        return Verdict((*disturbed.trouble, *compared.differences))


def _said(verdict: Verdict) -> str:
    shown, more = verdict.differences[:_SHOWN], len(verdict.differences) - _SHOWN
    rest = [f"and {more} more"] if more > 0 else []
    return "; ".join([*shown, *rest]) or "as undisturbed"
