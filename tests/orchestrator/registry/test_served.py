"""The registered model behind ``mlflow models serve``, asked by a real HTTP request."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.orchestrator.registry.registering import NAME, register_champion

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")

PATIENCE_S = 120


@pytest.fixture
def champion(uri: str, model_folder: Path) -> str:
    register_champion(uri, model_folder)
    return uri


@pytest.fixture
def address(champion: str, tmp_path: Path) -> Iterator[str]:
    """Of ``mlflow models serve`` on a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve"]
    command += ["-m", f"models:/{NAME}@champion", "--env-manager", "local"]
    # It finds uvicorn by its name.
    folders = [str(tool_folder()), os.environ["PATH"]]
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": champion,
        "PATH": os.pathsep.join(folders),
        "PYTHONWARNINGS": "ignore",
    }
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=tmp_path,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server, tmp_path / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def tool_folder() -> Path:
    """Where the commands of the installed packages are."""
    import uvicorn

    return Path(uvicorn.__file__).parents[4] / "bin"


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def ask(address: str, document: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{address}/invocations",
        json.dumps(document).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_the_champion_answers_a_request(address: str) -> None:
    encoded = io.BytesIO()
    Image.new("RGB", (32, 32), "grey").save(encoded, "PNG")
    image = base64.b64encode(encoded.getvalue()).decode()
    rows = [{"image": image, "question": text} for text in ("which digit is there ?", "which ?")]
    said = ask(address, {"dataframe_records": rows, "params": {"max_new_tokens": 3}})
    answers = said["predictions"]
    assert [sorted(row) for row in answers] == [["answer", "skip", "tokens"]] * 2
    assert all(row["tokens"] == 3 and 0.0 < row["skip"] < 1.0 for row in answers)

    with pytest.raises(urllib.error.HTTPError, match="400"):
        ask(address, {"dataframe_records": [{"picture": image}]})
