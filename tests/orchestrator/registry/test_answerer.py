import base64
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
from mlflow.pyfunc.model import PythonModelContext
from PIL import Image

from orchestrator.registry.answerer import QuestionAnswerer, read_image
from tests.orchestrator.small_llava import small_llava
from workloads.errors import DataError
from workloads.generation import SamplingError
from workloads.model_folder import save_model_folder


def png() -> bytes:
    encoded = io.BytesIO()
    Image.new("L", (32, 32), 200).save(encoded, "PNG")
    return encoded.getvalue()


@pytest.fixture(scope="module")
def answerer(model_folder: Path) -> QuestionAnswerer:
    loaded = QuestionAnswerer()
    context = PythonModelContext({"model": str(model_folder)}, None)  # type: ignore[no-untyped-call]
    loaded.load_context(context)
    return loaded


def test_an_image_may_come_in_any_form(tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    path.write_bytes(png())
    text = base64.b64encode(png()).decode()
    forms = [
        path,
        str(path),
        png(),
        bytearray(png()),
        text,
        f"data:image/png;base64,{text}",
        Image.open(path),
        np.full((32, 32), 200, np.uint8),
        np.full((32, 32, 3), 200),
        np.full((32, 32, 3), 200).tolist(),
    ]
    for form in forms:
        image = read_image("row 0", form)
        assert (image.mode, image.size) == ("RGB", (32, 32))
        assert image.getpixel((3, 3)) == (200, 200, 200)


@pytest.mark.parametrize("value", ["no/such/file.png", b"not an image", None, "aGk=", "é" * 5000])
def test_an_image_that_cannot_be_read_names_its_row(value: object) -> None:
    with pytest.raises(DataError, match=r"row 7: image: .*expected a path"):
        read_image("row 7", value)


def test_a_batch_is_answered_as_its_rows_are(answerer: QuestionAnswerer) -> None:
    table = pd.DataFrame(
        {
            "image": [png(), base64.b64encode(png()).decode()],
            "question": ["which digit is there ?", "which ?"],
        }
    )
    together = answerer.predict(None, table)
    alone = [answerer.predict(None, table.iloc[[row]]) for row in range(2)]
    for column in ("answer", "tokens", "skip"):
        assert list(together[column]) == [answers[column][0] for answers in alone]
    assert all(0.0 <= share <= 1.0 for share in together["skip"])
    assert all(together["tokens"] == 16)


def test_params_reach_the_generation(answerer: QuestionAnswerer) -> None:
    question = {"image": png(), "question": "which ?"}
    assert answerer.predict(None, question, {"max_new_tokens": 3})["tokens"][0] == 3
    with pytest.raises(SamplingError, match=r"temperature: must be in \[0, 2\], got 9"):
        answerer.predict(None, question, {"temperature": 9.0})


def test_a_dense_model_has_no_skip(tmp_path: Path) -> None:
    save_model_folder(*small_llava(layers=1, patch_pixels=16), tmp_path / "dense")
    dense = QuestionAnswerer()
    dense.load_context(PythonModelContext({"model": str(tmp_path / "dense")}, None))  # type: ignore[no-untyped-call]
    answers = dense.predict(None, {"image": png(), "question": "which ?"}, {"max_new_tokens": 1})
    assert json.loads(answers.to_json(orient="records"))[0]["skip"] is None


def test_a_mapping_of_one_question_is_answered_too(answerer: QuestionAnswerer) -> None:
    answers = answerer.predict(None, {"image": png(), "question": "which ?"})
    assert len(answers) == 1


def test_nothing_asked_is_nothing_answered(answerer: QuestionAnswerer) -> None:
    assert len(answerer.predict(None, pd.DataFrame({"image": [], "question": []}))) == 0


def test_a_missing_column_is_an_error(answerer: QuestionAnswerer) -> None:
    with pytest.raises(DataError, match="needs the columns image and question, has picture"):
        answerer.predict(None, pd.DataFrame({"picture": [1]}))


def test_a_question_that_is_no_text_is_an_error(answerer: QuestionAnswerer) -> None:
    with pytest.raises(DataError, match="row 0: question: must be text, got int"):
        answerer.predict(None, pd.DataFrame({"image": [png()], "question": [3]}))


def test_the_code_of_the_registered_model_needs_no_orchestrator() -> None:
    source = Path(QuestionAnswerer.__module__.replace(".", "/") + ".py")
    text = (Path(__file__).parents[3] / source).read_text()
    assert "orchestrator" not in text
    assert "import ray" not in text
