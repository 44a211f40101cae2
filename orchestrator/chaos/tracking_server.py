"""An MLflow server on loopback that can be stopped and started again on the same records."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import PreflightError

_PATIENCE_S = 120.0


class TrackingServer:
    """``mlflow server`` over a database.

    Args:
        folder: For what it says, its files and, as a rule, the database.
        environment: Of its process.
        database: Address of the database; by default of one of sqlite in ``folder``.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str], *, database: str | None = None
    ) -> None:
        self._folder, self._environment = folder, environment
        self._database = database or f"sqlite:///{folder}/mlflow.db"
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """The tracking URI, the same after every start."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it; returns when it answers.

        Raises:
            PreflightError: If it does not.
        """
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self._port)]
        command += ["--backend-store-uri", self._database]
        command += ["--artifacts-destination", str(self._folder / "artifacts"), "--workers", "1"]
        with (self._folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + _PATIENCE_S
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.stop()
                raise PreflightError(f"mlflow server does not start: see {self._folder}/server.log")
            time.sleep(0.2)

    def stop(self) -> None:
        """Kill it with its workers."""
        if self._process is not None:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1.0):
                return True
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
