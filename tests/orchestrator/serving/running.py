"""`gammaray serve` in a process of its own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.orchestrator.serving.requests import MODEL

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


@contextmanager
def serving(log: Path, model: str, *options: str) -> Iterator[Server]:
    """A server that answers; what is left of it is killed in the end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray_folder = Path(tempfile.mkdtemp(prefix="gr-", dir="/tmp"))
    command = [sys.executable, "-m", "orchestrator.cli", "serve", model, "--name", MODEL, "--json"]
    command += ["--port", str(port), "--api-key-env", "THE_KEY", *options]
    unset = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
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
        told = _read_document(process)
        assert told == {"model": MODEL, "url": f"http://127.0.0.1:{port}"}, log.read_text()
        watchdog.cancel()
        yield server
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
        for left in server.processes():
            with suppress(psutil.NoSuchProcess):
                left.kill()
        shutil.rmtree(ray_folder, ignore_errors=True)


def wait_until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.1)


def _read_document(process: subprocess.Popen[str]) -> Any:
    """The first JSON document on its standard output."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line.rstrip() == "}":
            return json.loads(text)
    return text
