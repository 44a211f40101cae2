"""Registered versions without weights: what a promotion reads of one, and nothing else."""

import json
from pathlib import Path

from mlflow import MlflowClient

from orchestrator.registry.evidence import EVIDENCE_TAG, FOLDER, Evidence
from orchestrator.registry.files import attach
from orchestrator.registry.version import DIGEST_TAG
from orchestrator.tracking.location import sqlite_file

NAME = "digits-mod"
QUESTIONS = 400


def measured(
    *,
    wrong: int = 20,
    dense_wrong: int = 20,
    apart: int = 0,
    tflops: float = 0.75,
    prompts: int = 16,
    prefill_ratio: float | None = 0.9,
    questions: int = QUESTIONS,
    expected: str = "6",
) -> Evidence:
    """Of a model that is wrong on some questions; its twin on others, if they lie ``apart``."""

    def answers(count: int, start: int) -> list[dict[str, object]]:
        bad = range(start, start + count)
        return [
            {"id": f"q{n}", "expected": expected, "is_correct": n not in bad}
            for n in range(questions)
        ]

    return Evidence(
        mod=answers(wrong, apart),
        dense=answers(dense_wrong, 0),
        tflops={"mod": tflops, "dense": 1.0},
        prompts=prompts,
        prefill_ratio=prefill_ratio,
    )


class Versions:
    """Makes versions of ``NAME`` in a sqlite database."""

    def __init__(self, uri: str) -> None:
        self.uri, self.client = uri, MlflowClient(uri)
        database = sqlite_file(uri)
        assert database is not None
        location = (Path(database).parent / "files").as_uri()
        self._experiment = self.client.create_experiment("versions", artifact_location=location)
        self.client.create_registered_model(NAME)

    def add(self, evidence: Evidence | None) -> str:
        """A new version; returns its number."""
        model_id = self.client.create_logged_model(self._experiment).model_id
        tags = {DIGEST_TAG: "d"}
        if evidence is not None:
            tags[EVIDENCE_TAG] = evidence.digest
            name = f"{FOLDER}/{evidence.digest}.json"
            attach(self.client, model_id, {name: json.dumps(evidence.to_json())})
        source = f"models:/{model_id}"
        return str(self.client.create_model_version(NAME, source, tags=tags).version)

    def champion(self) -> str | None:
        found = self.client.get_registered_model(NAME).aliases.get("champion")
        return None if found is None else str(found)

    def tags(self, version: str) -> dict[str, str]:
        return dict(self.client.get_model_version(NAME, version).tags)
