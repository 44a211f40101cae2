import json
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from orchestrator.durable import Artifact, InProcessExecutor, Runner, StepContext, open_store
from orchestrator.report.documents import SOURCES
from orchestrator.stages.report import report
from tests.orchestrator.durable.fakes import Steps
from workloads.data import Conversation, Turn, write_shard
from workloads.model_folder import save_model_folder
from workloads.reporting import SilentReporter

PREDICTION = {"id": "0", "tag": "place", "expected": "3", "answer": "3", "is_correct": True}


def test_the_stage_writes_a_page_from_the_artifacts_of_a_run(
    tmp_path: Path, documents: dict[str, Any], converted: tuple[PreTrainedModel, ProcessorMixin]
) -> None:
    inputs = {}
    for document, (step, file) in SOURCES.items():
        folder = tmp_path / step
        folder.mkdir(exist_ok=True)
        (folder / file).write_text(json.dumps(documents.get(document, {})))
        inputs[step] = Artifact(path=folder, measurement=folder, digest=f"of {step}", key="k")
    for twin in ("dense", "mod"):
        lines = tmp_path / f"evaluate-{twin}" / "predictions.jsonl"
        lines.write_text(json.dumps(PREDICTION) + "\n")
    save_model_folder(*converted, tmp_path / "finetune-mod" / "model")
    Image.new("RGB", (32, 32), "navy").save(tmp_path / "scene.png")
    turns = (Turn("human", "<image>\nwhich digit is there ?"), Turn("gpt", "3"))
    conversation = Conversation(id="0", images=("scene.png",), turns=turns, tags={"kind": "place"})
    write_shard([conversation], tmp_path, tmp_path / "data" / "eval.arrow")

    store = open_store(str(tmp_path / "store"))
    chain = Steps(store, tmp_path / "log").chain()
    Runner("digits-1", chain, store, start_executor=InProcessExecutor).run()

    report(
        StepContext(
            run_id="digits-1",
            step="report",
            key="k",
            epoch=1,
            attempt=1,
            store=store,
            params={"recipe": {"name": "digits"}},
            settings={},
            inputs=inputs,
            output=tmp_path,
            measurement=tmp_path,
            checkpoint_prefix="checkpoints/k",
            reporter=SilentReporter(),
        )
    )

    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "which digit is there ?" in page
    assert "of finetune-mod" in page
    assert "data:image/png;base64," in page
    assert page.count('<g class="step computed">') == 3
