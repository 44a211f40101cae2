"""What a version's promotion is decided on, kept beside its model in MLflow.

It lies with the model and not in the store, so that a later run compares with it when the store
of the earlier one is gone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.artifacts.key import digest

FOLDER = "evidence"
"""Of the registered model's files."""
EVIDENCE_TAG = "gammaray.evidence"
"""On a version: the digest, and so the file name, of the evidence that holds."""

_FORMAT = 1

Answers = Mapping[str, bool]
"""Sample id to whether the answer was right."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Both twins on the same questions, and what a prefill costs each."""

    mod: Sequence[Mapping[str, Any]]
    """Predictions of the registered model, as in ``predictions.jsonl``."""
    dense: Sequence[Mapping[str, Any]]
    """Those of its dense twin."""
    tflops: Mapping[str, float]
    """Counted in the decoder for the prefill of one sample, under ``mod`` and ``dense``."""
    prompts: int
    """Over how many samples ``tflops`` is the mean."""
    prefill_ratio: float | None = None
    """Time of a prefill over that of the dense twin, measured side by side."""

    @classmethod
    def of_run(
        cls,
        mod: Path,
        dense: Path,
        efficiency: Mapping[str, Any],
        timing: Mapping[str, Any],
    ) -> "Evidence":
        """Gather what the stages wrote.

        Args:
            mod: ``predictions.jsonl`` of the converted model.
            dense: ``predictions.jsonl`` of its dense twin.
            efficiency: ``efficiency.json``.
            timing: ``timing.json``.
        """
        return cls(
            mod=_read_lines(mod),
            dense=_read_lines(dense),
            tflops={twin: float(efficiency[twin]["tflops_counted"]) for twin in ("mod", "dense")},
            prompts=int(timing["batch_size"]),
            prefill_ratio=float(timing["prefill"]["median_ratio"]),
        )

    @cached_property
    def answers(self) -> Answers:
        """What the registered model got right."""
        return {str(item["id"]): bool(item["is_correct"]) for item in self.mod}

    @cached_property
    def dense_answers(self) -> Answers:
        """What its dense twin got right."""
        return {str(item["id"]): bool(item["is_correct"]) for item in self.dense}

    @cached_property
    def questions(self) -> frozenset[tuple[str, str]]:
        """Sample ids with the expected answers: two data sets may use the same ids."""
        return frozenset((str(item["id"]), str(item["expected"])) for item in self.mod)

    @cached_property
    def digest(self) -> str:
        """64 hexadecimal digits."""
        return digest("evidence", self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values, with the version of their layout."""
        return {"format": _FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, text: str) -> "Evidence":
        """Rebuild what `to_json` wrote.

        Raises:
            ValueError: If it is not that, or of another version.
        """
        try:
            document = json.loads(text)
            found = document.pop("format")
            if found != _FORMAT:
                raise ValueError(f"has format {found}, this version reads {_FORMAT}")
            return cls(**document)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"is not what gammaray wrote ({error!r})") from error


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]
