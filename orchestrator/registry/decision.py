"""Whether a version may become the champion, and why: pure, from evidence and a rule."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from orchestrator.artifacts.key import digest
from orchestrator.recipe import Promotion
from orchestrator.registry.evidence import Answers, Evidence
from orchestrator.registry.paired import PairedDifference, paired_difference


class Verdict(StrEnum):
    """How a decision ended."""

    PROMOTED = "promoted"
    """The rule holds, and the version was made the champion."""

    ELIGIBLE = "eligible"
    """The rule holds; it waits for a person to promote it."""

    REFUSED = "refused"
    """The rule does not hold, or nothing could be compared."""

    ROLLED_BACK = "rolled back"
    """It was the champion until a person gave the alias back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rival:
    """The present champion, as far as it is known."""

    version: str
    evidence: Evidence | None = None
    problem: str = ""
    """Why there is no evidence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One side-by-side of the candidate with another model."""

    against: str
    """``dense twin``, or ``champion (version 3)``."""
    holds: bool
    reasons: tuple[str, ...]
    """Why not; or, if it holds, what was gained."""
    accuracy: PairedDifference | None = None
    """Candidate minus the other; None if they cannot be compared."""
    flops_saved: float | None = None
    """Share of the other's FLOPs."""
    prefill_ratio: float | None = None
    """Candidate over the other; None where it was not measured side by side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What was decided on a version, with all that it rests on."""

    name: str
    version: str
    verdict: Verdict
    reason: str
    """One line for a person."""
    rule: Promotion
    evidence: str
    """Digest of the version's evidence."""
    champion: str | None
    """The version that was the champion before."""
    comparisons: tuple[Comparison, ...]
    decided_at: str

    @property
    def digest(self) -> str:
        """Of everything but the time."""
        return digest("decision", {**self._fields(), "decided_at": ""})

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values, with the digest."""
        return {**self._fields(), "digest": self.digest}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Decision":
        """Rebuild what `to_json` wrote."""
        comparisons = [
            Comparison(
                **item
                | {
                    "reasons": tuple(item["reasons"]),
                    "accuracy": item["accuracy"] and PairedDifference(**item["accuracy"]),
                }
            )
            for item in document["comparisons"]
        ]
        fields = {name: value for name, value in document.items() if name != "digest"}
        fields |= {
            "verdict": Verdict(document["verdict"]),
            "rule": Promotion.model_validate(document["rule"]),
            "comparisons": tuple(comparisons),
        }
        return cls(**fields)

    def _fields(self) -> dict[str, Any]:
        comparisons = [{**asdict(item), "reasons": list(item.reasons)} for item in self.comparisons]
        return {
            "name": self.name,
            "version": self.version,
            "verdict": str(self.verdict),
            "reason": self.reason,
            "rule": self.rule.model_dump(mode="json"),
            "evidence": self.evidence,
            "champion": self.champion,
            "comparisons": comparisons,
            "decided_at": self.decided_at,
        }


def decide(
    name: str,
    version: str,
    evidence: Evidence,
    *,
    champion: Rival | None,
    rule: Promotion,
    may_move: bool,
) -> Decision:
    """Apply the rule. It is the bound of each interval that decides, not the mean.

    Args:
        name: Name in the registry.
        version: The candidate.
        evidence: Of the candidate.
        champion: The present champion; None if there is none, or it is the candidate itself.
        rule: What has to hold.
        may_move: Whether the candidate is promoted if the rule holds, and not only found eligible.
    """
    comparisons = [_with_dense(evidence, rule)]
    if champion is not None and rule.against_champion:
        comparisons.append(_with_champion(evidence, champion, rule))
    failed = [item for item in comparisons if not item.holds]
    held = Verdict.PROMOTED if may_move else Verdict.ELIGIBLE
    said = "; ".join(
        f"{item.against}: {', '.join(item.reasons)}" for item in (failed or comparisons)
    )
    return Decision(
        name=name,
        version=version,
        verdict=Verdict.REFUSED if failed else held,
        reason=said,
        rule=rule,
        evidence=evidence.digest,
        champion=champion.version if champion else None,
        comparisons=tuple(comparisons),
        decided_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


def _with_dense(evidence: Evidence, rule: Promotion) -> Comparison:
    against = "dense twin"
    if evidence.answers.keys() != evidence.dense_answers.keys():
        return _incomparable(against, "the twins did not answer the same questions")
    accuracy = _accuracy(evidence.answers, evidence.dense_answers, rule)
    saved = 1 - evidence.tflops["mod"] / evidence.tflops["dense"]
    failures = list(_accuracy_failures(accuracy, rule))
    if saved < rule.min_flops_saved:
        needed = f"min_flops_saved is {rule.min_flops_saved:.1%}"
        failures.append(f"saves {saved:.1%} of the FLOPs, {needed}")
    ratio = evidence.prefill_ratio
    limit = rule.max_prefill_ratio
    if limit is not None and (ratio is None or ratio > limit):
        shown = "was not measured" if ratio is None else f"takes × {ratio:.2f} of the time"
        failures.append(f"its prefill {shown}, max_prefill_ratio is {limit:g}")
    return Comparison(
        against=against,
        holds=not failures,
        reasons=tuple(failures) or (f"{shown_accuracy(accuracy)}, {saved:.1%} fewer FLOPs",),
        accuracy=accuracy,
        flops_saved=saved,
        prefill_ratio=ratio,
    )


def _with_champion(evidence: Evidence, champion: Rival, rule: Promotion) -> Comparison:
    against = f"champion (version {champion.version})"
    other = champion.evidence
    if other is None:
        return _incomparable(against, champion.problem)
    if problem := _other_measurement(evidence, other):
        return _incomparable(against, problem)
    accuracy = _accuracy(evidence.answers, other.answers, rule)
    saved = 1 - evidence.tflops["mod"] / other.tflops["mod"]
    failures = list(_accuracy_failures(accuracy, rule))
    is_cheaper = saved >= rule.min_champion_gain
    is_better = accuracy.low > 0 and saved >= 0
    if not failures and not is_cheaper and not is_better:
        failures.append(
            f"no gain: it saves {saved:.1%} of the champion's FLOPs, min_champion_gain is "
            f"{rule.min_champion_gain:.1%}, and is not surely more accurate at the same cost"
        )
    return Comparison(
        against=against,
        holds=not failures,
        reasons=tuple(failures) or (f"{shown_accuracy(accuracy)}, {saved:.1%} fewer FLOPs",),
        accuracy=accuracy,
        flops_saved=saved,
    )


def _other_measurement(evidence: Evidence, other: Evidence) -> str:
    """Why two versions' figures say nothing of each other; "" if they do."""
    if evidence.questions != other.questions:
        common = len(evidence.questions & other.questions)
        return (
            f"it was measured on other samples ({common} of {len(evidence.questions)} questions "
            "in common); evaluate both on the same data, or decide without it by "
            "against_champion=false"
        )
    if evidence.prompts != other.prompts:
        return (
            f"its FLOPs are the mean over {other.prompts} samples, the candidate's over "
            f"{evidence.prompts}; set the same efficiency.batch_size"
        )
    return ""


def _accuracy(answers: Answers, other: Answers, rule: Promotion) -> PairedDifference:
    ids = sorted(answers)
    return paired_difference(
        [answers[sample] for sample in ids],
        [other[sample] for sample in ids],
        confidence=rule.confidence,
        resamples=rule.resamples,
    )


def _accuracy_failures(accuracy: PairedDifference, rule: Promotion) -> Iterator[str]:
    if accuracy.questions < rule.min_questions:
        few = f"{accuracy.questions} questions decide nothing"
        yield f"{few}, min_questions is {rule.min_questions}"
    if accuracy.low < -rule.max_accuracy_drop:
        yield (
            f"{shown_accuracy(accuracy)}, so it may be {-accuracy.low * 100:.1f} points worse; "
            f"max_accuracy_drop is {rule.max_accuracy_drop * 100:g} points"
        )


def shown_accuracy(accuracy: PairedDifference) -> str:
    """Such as ``accuracy -0.6 points [-1.4, +0.1]``."""
    low, mean, high = (value * 100 for value in (accuracy.low, accuracy.mean, accuracy.high))
    return f"accuracy {mean:+.1f} points [{low:+.1f}, {high:+.1f}]"


def _incomparable(against: str, problem: str) -> Comparison:
    return Comparison(against=against, holds=False, reasons=(f"cannot be compared: {problem}",))
