import io
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from PIL import Image

from orchestrator.durable import Artifact, StepContext, open_store
from orchestrator.stages.register import is_registered, register
from orchestrator.tracking.records import Records
from orchestrator.tracking.session import identity
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
    "skip": {"measured": {"skip_routable": 0.4, "skip_all": 0.34}},
}
DENSE = {"accuracy": 0.92, "questions": 2000}

Register = Callable[..., Artifact]


@pytest.fixture
def settings(uri: str) -> dict[str, str]:
    return {"tracking_uri": uri, "experiment": "demo"}


@pytest.fixture
def run_register(tmp_path: Path, model_folder: Path, settings: dict[str, str]) -> Register:
    """Run the stage for a model of the given digest; returns its artifact."""

    def run(digest: str = "a" * 64) -> Artifact:
        def artifact(name: str, digest: str, metrics: Mapping[str, object]) -> Artifact:
            path = tmp_path / name
            path.mkdir(exist_ok=True)
            (path / "metrics.json").write_text(json.dumps(metrics))
            return Artifact(path=path, measurement=path, digest=digest, key="k")

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
                params={"name": NAME},
                settings=settings,
                inputs={
                    "model": model,
                    "evaluation": artifact("mod", "e", MOD),
                    "dense_evaluation": artifact("dense", "d", DENSE),
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
    run_id = Records(uri, "demo").open_run(identity("digits-1", "register"), name="register")
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
    answers = model.predict(question, params={"max_new_tokens": 2})
    assert list(answers.columns) == ["answer"]
    assert len(answers) == 1


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
