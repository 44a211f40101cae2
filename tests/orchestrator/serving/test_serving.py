"""`gammaray serve` as it is: a process, Ray Serve, a converted model, and HTTP."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.orchestrator.registry.conftest import model_folder
from tests.orchestrator.serving.requests import MODEL, chat

__all__ = ["model_folder"]

pytestmark = pytest.mark.ray

CHAT = "/v1/chat/completions"
KEY = "a-key-that-must-not-be-seen"
PATIENCE_S = 120.0


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int
    ray_folder: Path

    def ask(self, path: str, document: Any = None) -> tuple[int, str]:
        body = None if document is None else json.dumps(document).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        lines = self.ask("/metrics")[1].splitlines()
        found = [line.rpartition(" ")[2] for line in lines if line.startswith(name + " ")]
        return float(found[0]) if found else 0.0

    def processes(self) -> list[psutil.Process]:
        """All that Ray has started for it."""
        mark = str(self.ray_folder)
        found = psutil.process_iter(["cmdline", "environ"])
        return [
            process
            for process in found
            if mark in " ".join(process.info["cmdline"] or [])
            or (process.info["environ"] or {}).get("RAY_TMPDIR") == mark
        ]


@pytest.fixture(scope="module")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of this file; the last one ends it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray_folder = Path(tempfile.mkdtemp(prefix="gr-", dir="/tmp"))
    log = tmp_path_factory.mktemp("log") / "stderr"
    command = [sys.executable, "-m", "orchestrator.cli", "serve", str(model_folder)]
    command += ["--name", MODEL, "--port", str(port), "--api-key-env", "THE_KEY", "--json"]
    command += ["--max-batch", "4", "--batch-wait", "0.5", "--max-tokens", "5"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_TMPDIR": str(ray_folder), "THE_KEY": KEY}
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdout is not None
    server = Server(process, port, ray_folder)
    watchdog = threading.Timer(PATIENCE_S, process.kill)
    watchdog.start()
    try:
        told = read_document(process)
        assert told == {"model": MODEL, "url": f"http://127.0.0.1:{port}"}, log.read_text()
        watchdog.cancel()
        yield server
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
        for left in server.processes():
            left.kill()
        shutil.rmtree(ray_folder, ignore_errors=True)


def read_document(process: subprocess.Popen[str]) -> Any:
    """The first JSON document on its standard output."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line.rstrip() == "}":
            return json.loads(text)
    return text


def test_it_is_healthy_and_lists_its_model(server: Server) -> None:
    assert server.ask("/health") == (200, '{"status":"ok"}')
    assert json.loads(server.ask("/v1/models")[1])["data"][0]["id"] == MODEL


def test_a_question_about_an_image_is_answered_with_the_measured_skip(server: Server) -> None:
    status, text = server.ask(CHAT, chat(max_tokens=3))
    document = json.loads(text)
    assert status == 200
    assert document["usage"]["completion_tokens"] == 3
    assert document["choices"][0]["finish_reason"] == "length"
    assert 0.0 < document["gammaray"]["skip"] < 1.0


def test_a_stream_joins_to_the_plain_answer(server: Server) -> None:
    plain = json.loads(server.ask(CHAT, chat())[1])
    asked = chat(stream=True, stream_options={"include_usage": True})
    *lines, done = server.ask(CHAT, asked)[1].strip().split("\n\n")
    assert done == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    text = "".join(delta.get("content", "") for delta in deltas)
    assert text == plain["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"] == plain["usage"]
    assert chunks[-1]["usage"]["completion_tokens"] == 5


def test_questions_at_the_same_time_share_a_batch(server: Server) -> None:
    before = server.metric("gammaray_batch_size_sum")
    questions = [chat("which ?", max_tokens=2), chat("which digit is there ?", max_tokens=5)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda asked: server.ask(CHAT, asked), questions))
    assert server.metric("gammaray_batch_size_sum") == before + 4
    for asked, (status, text) in zip(questions, together, strict=True):
        assert status == 200
        alone = json.loads(server.ask(CHAT, asked)[1])
        assert json.loads(text)["choices"] == alone["choices"]
        assert json.loads(text)["usage"] == alone["usage"]


def test_a_bad_question_is_refused_and_names_its_field(server: Server) -> None:
    status, text = server.ask(CHAT, chat("x" * 1100))
    assert (status, json.loads(text)["error"]["param"]) == (400, "messages")
    assert "more than the limit of 1023" in text
    status, text = server.ask(CHAT, chat(temperature=5))
    assert (status, json.loads(text)["error"]["param"]) == (400, "temperature")


def test_a_client_that_leaves_ends_its_row_and_no_other(server: Server) -> None:
    leaving = HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    with ThreadPoolExecutor(1) as pool:
        body = json.dumps(chat(stream=True, max_tokens=900))
        leaving.request("POST", CHAT, body, headers)
        staying = pool.submit(server.ask, CHAT, chat("which ?", max_tokens=40))
        leaving.getresponse().read(1)
        leaving.close()
        status, text = staying.result()
    assert (status, json.loads(text)["usage"]["completion_tokens"]) == (200, 40)
    gone = 'gammaray_requests_total{status="499"}'
    wait_until(lambda: server.metric(gone) == 1)
    assert server.metric("gammaray_requests_running") == 0
    assert server.metric("gammaray_requests_waiting") == 0


def test_metrics_tell_tokens_skip_and_the_first_token(server: Server) -> None:
    assert server.metric('gammaray_requests_total{status="200"}') >= 5
    assert server.metric('gammaray_tokens_total{kind="completion"}') >= 20
    assert 0.0 < server.metric("gammaray_skip_sum") / server.metric("gammaray_skip_count") < 1.0
    assert server.metric("gammaray_time_to_first_token_seconds_count") >= 5


def test_the_key_is_in_no_log(server: Server) -> None:
    logs = [path for path in server.ray_folder.rglob("logs/**/*") if path.is_file()]
    assert logs
    assert not [path for path in logs if KEY.encode() in path.read_bytes()]


def test_an_interrupt_ends_it_and_leaves_no_process(server: Server) -> None:
    assert server.processes()
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(PATIENCE_S) == 0
    wait_until(lambda: not server.processes())


def wait_until(holds: Any) -> None:
    end_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.1)
