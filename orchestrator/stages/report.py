"""Stage ``report``: one HTML page that shows what came out of the run, and opens anywhere."""

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, cast

from orchestrator.durable import StepContext
from orchestrator.report import from_artifacts
from orchestrator.report.agreement import Agreement
from orchestrator.report.documents import read_lines
from orchestrator.report.examples import make_examples
from orchestrator.report.graph import read_graph
from orchestrator.report.page import Provenance, render
from workloads.data import open_shard
from workloads.model_folder import open_model_folder

_LIBRARIES = ("gammaray", "torch", "transformers", "ray", "deepspeed", "mlflow")


def report(context: StepContext) -> None:
    """Write ``measurement/report.html``; the converted model answers a few prompts for it.

    Raises:
        KeyError: If an input that the page cannot do without is missing.
    """
    inputs = context.inputs
    dense, mod = (
        read_lines(inputs[f"evaluate-{twin}"].path / "predictions.jsonl")
        for twin in ("dense", "mod")
    )
    model, processor = open_model_folder(inputs["finetune-mod"].path / "model")
    shard = open_shard(inputs["data"].path / "eval.arrow")
    page = render(
        from_artifacts(inputs),
        agreement=Agreement.of(dense, mod),
        graph=read_graph(context.store, context.run_id),
        examples=make_examples(model, processor, shard, dense, mod),
        provenance=Provenance(
            run_id=context.run_id,
            recipe=cast(dict[str, Any], context.params["recipe"]),
            digests={name: artifact.digest for name, artifact in inputs.items()},
            versions={name: version(name) for name in _LIBRARIES},
            made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        ),
    )
    (context.measurement / "report.html").write_text(page, encoding="utf-8")
