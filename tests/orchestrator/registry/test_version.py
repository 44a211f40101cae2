import io
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import mlflow
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from PIL import Image

from orchestrator.cli import ExitCode, main
from orchestrator.durable import Artifact, StepContext, open_store
from orchestrator.registry import RegistryError
from orchestrator.stages.register import is_registered, register
from orchestrator.tracking.records import Records
from orchestrator.tracking.session import identity
from workloads.mod import is_converted, load_pretrained
from workloads.reporting import SilentReporter

# MLflow 3.17 uses what SQLAlchemy 2.1 and pandas 3.1 deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
]

NAME = "digits.mod"
MOD = {
    "accuracy": 0.91,
    "questions": 2000,
    "skip": {
        "nominal": {"skip_routable": 0.39, "skip_all": 0.33},
        "measured": {"skip_routable": 0.4, "skip_all": 0.34},
    },
}
DENSE = {"accuracy": 0.92, "questions": 2000}

EFFICIENCY = {"mod": {"tflops_counted": 1.2e-4}, "dense": {"tflops_counted": 1.5e-4}}
TIMING = {"batch_size": 16, "prefill": {"median_ratio": 0.94}}
RULE = {"max_accuracy_drop": 0.03, "min_flops_saved": 0.1}

Register = Callable[..., Artifact]


@pytest.fixture
def settings(uri: str) -> dict[str, str]:
    return {"tracking_uri": uri, "experiment": "demo"}


def predictions(right: int) -> str:
    lines = [
        {"id": f"q{n}", "tag": "count", "expected": "6", "answer": "6", "is_correct": n < right}
        for n in range(200)
    ]
    return "\n".join(json.dumps(line) for line in lines) + "\n"


@pytest.fixture
def run_register(tmp_path: Path, model_folder: Path, settings: dict[str, str]) -> Register:
    """Run the stage for a model of the given digest; returns its artifact."""

    def run(
        digest: str = "a" * 64, *, right: int = 184, rule: Mapping[str, object] | None = None
    ) -> Artifact:
        def artifact(name: str, digest: str, files: Mapping[str, str]) -> Artifact:
            path = tmp_path / name
            path.mkdir(exist_ok=True)
            for file, text in files.items():
                (path / file).write_text(text)
            return Artifact(path=path, measurement=path, digest=digest, key="k")

        def evaluation(name: str, digest: str, metrics: object, right: int) -> Artifact:
            files = {"metrics.json": json.dumps(metrics), "predictions.jsonl": predictions(right)}
            return artifact(name, digest, files)

        costs = {"efficiency.json": json.dumps(EFFICIENCY), "timing.json": json.dumps(TIMING)}
        parent = model_folder.parent
        model = Artifact(path=parent, measurement=parent, digest=digest, key="k")
        made = artifact("register", "r", {})
        register(
            StepContext(
                run_id="digits-1",
                step="register",
                key="key-1",
                epoch=1,
                attempt=1,
                store=open_store(str(tmp_path / "store")),
                params={"name": NAME} | ({"promote": rule} if rule else {}),
                settings=settings,
                inputs={
                    "model": model,
                    "evaluation": evaluation("mod", "e", MOD, right),
                    "dense_evaluation": evaluation("dense", "d", DENSE, 184),
                    "efficiency": artifact("efficiency", "c", costs),
                },
                output=made.path,
                measurement=made.measurement,
                checkpoint_prefix="checkpoints/x",
                reporter=SilentReporter(),
            )
        )
        return made

    return run


def candidate(uri: str) -> ModelVersion:
    return MlflowClient(uri).get_model_version_by_alias(NAME, "candidate")


def test_the_candidate_answers_a_question_and_says_where_it_came_from(
    run_register: Register, uri: str, tmp_path: Path
) -> None:
    records = Records(uri, "demo", str(tmp_path))
    run_id = records.open_run(identity("digits-1", "register"), name="register")
    run_register()
    version = candidate(uri)
    assert version.run_id == run_id
    assert version.tags["gammaray.digest"] == "a" * 64
    assert version.tags["gammaray.accuracy"] == "0.9100"
    assert version.tags["gammaray.skip_all"] == "0.3400"
    assert version.tags["gammaray.input.evaluation"] == "e"
    assert "91.0% on 2000 held-out questions, its dense twin 92.0%" in str(version.description)

    model = mlflow.pyfunc.load_model(f"models:/{NAME}@candidate")
    image = tmp_path / "scene.png"
    Image.new("RGB", (32, 32)).save(image)
    question = {"image": [str(image)], "question": ["which digit is there ?"]}
    answers = model.predict(question, params={"max_new_tokens": 2, "temperature": 0.5})
    assert list(answers.columns) == ["answer", "tokens", "skip"]
    assert answers["tokens"][0] <= 2
    assert 0.0 <= answers["skip"][0] <= 1.0


def test_a_registered_model_is_code_and_weights_with_pins_and_no_pickle(
    run_register: Register, uri: str
) -> None:
    run_register()
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}@candidate"))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"answerer.py", "artifacts/model/config.json", "input_example.json"} <= names
    assert "code/workloads/mod/convert.py" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".bin", ".pt"))]
    pins = (folder / "requirements.txt").read_text().split()
    assert all("==" in pin and "+" not in pin for pin in pins)
    assert mlflow.models.get_model_info(str(folder)).signature is not None


def test_the_same_model_is_registered_once(run_register: Register, uri: str) -> None:
    first = json.loads((run_register().measurement / "registration.json").read_text())
    again = json.loads((run_register().measurement / "registration.json").read_text())
    assert again == first
    assert first["uri"] == f"models:/{NAME}/1"
    assert len(MlflowClient(uri).search_model_versions(f"name = '{NAME}'")) == 1


def test_another_model_becomes_the_candidate(run_register: Register, uri: str) -> None:
    run_register("a" * 64)
    run_register("b" * 64)
    assert str(candidate(uri).version) == "2"
    run_register("a" * 64)
    assert str(candidate(uri).version) == "1"


@pytest.mark.parametrize("is_asked_of_mlflow", [False, True])
def test_a_version_that_was_deleted_is_no_longer_registered(
    run_register: Register,
    uri: str,
    settings: dict[str, str],
    is_asked_of_mlflow: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if is_asked_of_mlflow:
        monkeypatch.setattr("orchestrator.registry.version.versions", lambda *_: None)
    artifact = run_register()
    assert is_registered(artifact, settings)
    MlflowClient(uri).delete_model_version(NAME, "1")
    assert not is_registered(artifact, settings)


def test_nothing_is_registered_in_a_database_that_is_not_there(
    run_register: Register, tmp_path: Path
) -> None:
    artifact = run_register()
    elsewhere = {"tracking_uri": f"sqlite:///{tmp_path}/other.db", "experiment": "demo"}
    assert not is_registered(artifact, elsewhere)
    assert not (tmp_path / "other.db").exists()


def test_a_server_that_is_away_is_worth_another_try(
    run_register: Register, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings["tracking_uri"] = "http://127.0.0.1:1"
    with pytest.raises(ConnectionError, match=r"MLflow at http://127\.0\.0\.1:1 is away"):
        run_register()


def aliases(uri: str) -> dict[str, str]:
    found = MlflowClient(uri).get_registered_model(NAME).aliases
    return {alias: str(version) for alias, version in found.items()}


def test_without_a_rule_nothing_is_decided(run_register: Register, uri: str) -> None:
    artifact = run_register()
    assert aliases(uri) == {"candidate": "1"}
    assert not (artifact.measurement / "decision.json").exists()


def test_a_rule_that_holds_makes_the_champion_and_says_why(
    run_register: Register, uri: str
) -> None:
    artifact = run_register(rule=RULE)
    assert aliases(uri) == {"candidate": "1", "champion": "1"}
    decision = json.loads((artifact.measurement / "decision.json").read_text())
    assert decision["verdict"] == "promoted"
    assert decision["rule"]["max_accuracy_drop"] == 0.03
    assert decision["comparisons"][0]["flops_saved"] == pytest.approx(0.2)
    assert candidate(uri).tags["gammaray.decision.digest"] == decision["digest"]
    assert "91.0% on 2000 held-out questions" in str(candidate(uri).description)
    assert "Promoted at" in str(candidate(uri).description)


def test_a_rule_that_does_not_hold_leaves_a_candidate(run_register: Register, uri: str) -> None:
    artifact = run_register(rule=RULE, right=170)
    assert aliases(uri) == {"candidate": "1"}
    decision = json.loads((artifact.measurement / "decision.json").read_text())
    assert decision["verdict"] == "refused"
    assert "accuracy -7.0 points" in decision["reason"]


def test_a_model_that_is_measured_anew_is_decided_on_anew(run_register: Register, uri: str) -> None:
    run_register(rule=RULE, right=170)
    run_register(rule=RULE, right=184)
    assert aliases(uri) == {"candidate": "1", "champion": "1"}


def test_the_folder_of_a_version_is_ready_for_the_hub(
    run_register: Register, uri: str, tmp_path: Path
) -> None:
    run_register()
    database = uri.removeprefix("sqlite:///")
    asked = ["--export", str(tmp_path / "hub"), "--store", str(Path(database).parent)]
    assert main(["register", NAME, *asked]) == ExitCode.DONE
    card = (tmp_path / "hub" / "README.md").read_text()
    front, text = card.removeprefix("---\n").split("---\n", 1)
    matter = yaml.safe_load(front)
    assert matter["pipeline_tag"] == "image-text-to-text"
    assert matter["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.91
    assert "| decoder TFLOPs of a prefill, counted | 0.00015 | 0.00012 |" in text
    assert "- model: `" + "a" * 64 in text
    assert "Converted layers: 1." in text
    model = load_pretrained(tmp_path / "hub")
    assert is_converted(model)
    names = {path.name for path in (tmp_path / "hub").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer_config.json"} <= names


def test_the_name_of_a_prompt_is_refused_before_anything_is_uploaded(
    run_register: Register, uri: str
) -> None:
    MlflowClient(uri).register_prompt(NAME, "what is {{this}}?")
    with pytest.raises(RegistryError, match="is the name of a prompt; choose another"):
        run_register()
    assert not MlflowClient(uri).search_logged_models(["0", "1"])


def test_the_name_of_a_model_that_others_made_is_refused_too(
    run_register: Register, uri: str
) -> None:
    client = MlflowClient(uri)
    client.create_registered_model(NAME)
    client.create_model_version(NAME, "s3://bucket/theirs")
    with pytest.raises(RegistryError, match="has 1 versions, none of which gammaray made"):
        run_register()
    assert aliases(uri) == {}


def test_a_name_without_versions_is_taken(run_register: Register, uri: str) -> None:
    MlflowClient(uri).create_registered_model(NAME)
    run_register()
    assert aliases(uri) == {"candidate": "1"}


def test_what_a_server_that_is_away_says_holds_no_password(
    run_register: Register, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings["tracking_uri"] = "http://me:pa55word@127.0.0.1:1"
    with pytest.raises(ConnectionError, match=r"MLflow at http://127\.0\.0\.1:1") as told:
        run_register()
    assert "pa55word" not in str(told.value)


@pytest.mark.slow
def test_the_candidate_answers_in_a_fresh_process_without_this_repository(
    run_register: Register, uri: str, tmp_path: Path
) -> None:
    run_register()
    image = io.BytesIO()
    Image.new("RGB", (32, 32)).save(image, "PNG")
    (tmp_path / "scene.png").write_bytes(image.getvalue())
    code = f"""
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in str(type(f)).lower()]
sys.path[:] = [p for p in sys.path if not p.endswith("main")]
import mlflow
mlflow.set_tracking_uri({uri!r})
model = mlflow.pyfunc.load_model("models:/{NAME}@candidate")
print(model.predict({{"image": ["scene.png"], "question": ["which ?"]}}).shape)
import workloads
print("code" in workloads.__file__, "ray" in sys.modules, "orchestrator" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[-3:-1] == ["(1, 1)", "True False False"], done.stderr
