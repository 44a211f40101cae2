"""The registered model as code: an image and a question in, an answer out.

MLflow copies this file into the model and runs it wherever the model is loaded, with
``workloads`` beside it. It therefore imports nothing else of gammaray.
"""

import base64
import binascii
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from PIL import Image, UnidentifiedImageError

from workloads.data import Sample, Turn
from workloads.errors import DataError
from workloads.generation import Generator, Sampling
from workloads.model_folder import open_model_folder

COLUMNS = ("image", "question")
_IMAGE_MARK = "<image>"
_PATH_SHOWN = 60


class QuestionAnswerer(PythonModel):
    """Answers questions about images with a dense or a converted model.

    Input: a table with the columns ``image`` and ``question``, or a mapping of them. An image is
    a path, encoded bytes, base64 text (with or without a ``data:`` prefix), a PIL image, or an
    array ``(height, width)`` or ``(height, width, 3)`` of uint8.
    Output: a table in the same order with the columns ``answer``, ``tokens`` (generated ones) and
    ``skip``, the measured share of the prompt's tokens that Mixture-of-Depths layers skipped, None
    for a dense model.
    Params: ``max_new_tokens``, ``temperature`` (0 is greedy) and ``top_p``.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model folder that was registered; runs once."""
        self._generator = Generator(*open_model_folder(Path(context.artifacts["model"])))

    def predict(
        self,
        context: PythonModelContext | None,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Answer a batch.

        Raises:
            DataError: If a column is missing, or an image cannot be read; it names the row.
            SamplingError: If a param is out of its range.
        """
        sampling = Sampling(**(params or {}))
        samples = _samples(model_input)
        if not samples:
            return pd.DataFrame({"answer": [], "tokens": [], "skip": []})
        batch = self._generator.encode(samples)
        completions = self._generator.generate(batch, [sampling] * len(samples))
        return pd.DataFrame(
            {
                "answer": [completion.text.strip() for completion in completions],
                "tokens": [completion.completion_tokens for completion in completions],
                "skip": [completion.skip for completion in completions],
            }
        )


def _samples(table: pd.DataFrame | Mapping[str, Any]) -> list[Sample]:
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        found = ", ".join(map(str, table)) or "nothing"
        raise DataError("model input", "", f"needs the columns image and question, has {found}")
    rows = _rows(_column(table["image"]), _column(table["question"]))
    return [_sample(f"row {row}", image, question) for row, (image, question) in enumerate(rows)]


def _column(values: Any) -> Sequence[Any]:  # noqa: ANN401  whatever a caller of predict brings
    is_column = isinstance(values, pd.Series | list | tuple)
    return list(values) if is_column else [values]


def _rows(images: Sequence[Any], questions: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Pair them; MLflow folds a mapping of two lists into a single row that holds both."""
    for image, question in zip(images, questions, strict=True):
        if isinstance(question, list | tuple | np.ndarray):
            yield from zip(image, question, strict=True)
        else:
            yield image, question


def _sample(row: str, image: Any, question: Any) -> Sample:  # noqa: ANN401
    if not isinstance(question, str):
        raise DataError(row, "question", f"must be text, got {type(question).__name__}")
    marked = question if _IMAGE_MARK in question else f"{_IMAGE_MARK}\n{question}"
    turns = (Turn("human", marked), Turn("gpt", ""))
    return Sample(id=row, images=(read_image(row, image),), turns=turns, tags={})


def read_image(row: str, value: Any) -> Image.Image:  # noqa: ANN401
    """Decode an image in any of the forms that `QuestionAnswerer` takes.

    Raises:
        DataError: If it cannot be read; it names ``row``.
    """
    try:
        return _decoded(value).convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError, TypeError) as error:
        shown = repr(value)[:_PATH_SHOWN] if isinstance(value, str) else type(value).__name__
        raise DataError(
            row,
            "image",
            f"{shown} cannot be read ({error}); expected a path, encoded bytes, base64 text, "
            "a PIL image or an array of uint8",
        ) from error


def _decoded(value: Any) -> Image.Image:  # noqa: ANN401
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, np.ndarray | list):
        return Image.fromarray(np.asarray(value, dtype=np.uint8))
    if isinstance(value, bytes | bytearray):
        return Image.open(io.BytesIO(value))
    if isinstance(value, Path) or (isinstance(value, str) and os.path.isfile(value)):
        return Image.open(value)
    if isinstance(value, str):
        return Image.open(io.BytesIO(_from_base64(value)))
    raise TypeError("not an image")


def _from_base64(text: str) -> bytes:
    payload = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(payload, validate=True)
    except binascii.Error as error:
        raise ValueError(f"no such file, and not base64: {error}") from error


set_model(QuestionAnswerer())
