"""Packs a model folder into a models-from-code pyfunc: code, weights, pins, and no pickle."""

import base64
import io
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import workloads

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    from mlflow.models import ModelSignature
    from mlflow.models.model import ModelInfo

ANSWERER = Path(__file__).with_name("answerer.py")
"""The code of the registered model; it is run by path, never imported here."""

_PINNED = (
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "safetensors",
    "scikit-learn",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
)
_EXAMPLE_PIXELS = 64


def log_model(
    tracking_uri: str,
    experiment_id: str,
    model: Path,
    *,
    name: str,
    run_id: str | None,
) -> "ModelInfo":
    """Upload a model folder as a pyfunc, and check that it loads and answers.

    Args:
        tracking_uri: MLflow.
        experiment_id: Experiment that the model belongs to.
        model: Hugging Face folder with its processor, dense or converted.
        name: What the model is called.
        run_id: MLflow run that made it, if there is one.

    Raises:
        MlflowException: If MLflow is away or refuses.
        DataError: If the packed model does not answer its own example.
    """
    with warnings.catch_warnings(), _code() as code:
        # MLflow warns of its own type hints, and of how it uses pandas.
        warnings.simplefilter("ignore")
        import mlflow.pyfunc
        from mlflow.models import Model

        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_experiment(experiment_id=experiment_id)
        example = input_example()
        # What mlflow.pyfunc.log_model does, but for a run that another process has open.
        info: ModelInfo = Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            name=name.replace(".", "_"),
            run_id=run_id,
            python_model=str(ANSWERER),
            artifacts={"model": str(model)},
            code_paths=[str(code)],
            signature=signature(),
            input_example=example,
            pip_requirements=requirements(),
        )
        mlflow.pyfunc.load_model(info.model_uri).predict(example)
    return info


def requirements() -> list[str]:
    """Versions of this environment, without local parts such as ``+cpu`` that no index has."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in _PINNED]


def signature() -> "ModelSignature":
    """``image`` of any kind and ``question`` to ``answer``, its tokens and the measured skip."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    from workloads.generation import Sampling

    defaults = Sampling()
    image = AnyType()  # type: ignore[no-untyped-call]
    return ModelSignature(
        inputs=Schema([ColSpec(image, "image"), ColSpec("string", "question")]),
        outputs=Schema(
            [
                ColSpec("string", "answer"),
                ColSpec("long", "tokens"),
                ColSpec("double", "skip", required=False),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("max_new_tokens", "integer", defaults.max_new_tokens),
                ParamSpec("temperature", "double", defaults.temperature),
                ParamSpec("top_p", "double", defaults.top_p),
            ]
        ),
    )


def input_example() -> "pd.DataFrame":
    """A table of one row: a plain image as base64 text, as it travels over HTTP."""
    import pandas as pd
    from PIL import Image

    encoded = io.BytesIO()
    Image.new("RGB", (_EXAMPLE_PIXELS, _EXAMPLE_PIXELS), "grey").save(encoded, "PNG")
    image = base64.b64encode(encoded.getvalue()).decode()
    return pd.DataFrame({"image": [image], "question": ["what is in the picture?"]})


@contextmanager
def _code() -> Iterator[Path]:
    """The sources of ``workloads``, without the embedded model that is part of the package."""
    source = Path(workloads.__path__[0])
    with tempfile.TemporaryDirectory(prefix="gammaray-") as scratch:
        target = Path(scratch) / "workloads"
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors", "digits")
        shutil.copytree(source, target, ignore=ignored)
        yield target
