"""A real ``ray start --head`` of its own: own ports, own token, ended by its process ids."""

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

START_ATTEMPTS = 4
START_TIMEOUT_S = 120.0
SETTLING_S = 2.5
END_TIMEOUT_S = 20.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h
SCRIPTS = Path(sys.executable).parent


@dataclass(frozen=True, kw_only=True, slots=True)
class RayHead:
    """A running head node with two CPUs and its job API."""

    address: str
    environment: Mapping[str, str]
    """What a client process needs: the token, and this environment's commands on PATH."""

    def submit(
        self,
        *arguments: str,
        timeout_s: float = 120.0,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``gammaray submit`` to this head, as a user would.

        Args:
            arguments: For instance ``"digits"``, ``"finetune.steps=4"``, ``"--store"``, a folder;
                ``"--entrypoint"`` and a command run something else than the pipeline.
            timeout_s: How long the job may take.
            environment: Instead of the head's own, to come with another token.
        """
        command = [str(SCRIPTS / "gammaray"), "submit", *arguments, "--address", self.address]
        return self._run(command, timeout_s, environment)

    def ray_job_submit(
        self, *command: str, timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run ``ray job submit --address HEAD -- COMMAND``, which knows nothing of gammaray."""
        submit = [str(SCRIPTS / "ray"), "job", "submit", "--address", self.address, "--", *command]
        return self._run(submit, timeout_s, None)

    def _run(
        self, command: list[str], timeout_s: float, environment: Mapping[str, str] | None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=dict(self.environment if environment is None else environment),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


@contextmanager
def ray_head_node() -> Iterator[RayHead]:
    """Start a head, wait until it takes jobs, and end all its processes at the end."""
    environment = os.environ | {
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
    }
    environment.pop("RAY_ADDRESS", None)
    # Sockets live below this folder and their paths may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="gr-", dir="/tmp"))
    log = folder / "start.log"
    try:
        for _ in range(START_ATTEMPTS):
            dashboard, agent, client = free_ports(3)
            head = RayHead(address=f"http://127.0.0.1:{dashboard}", environment=environment)
            command = [
                str(SCRIPTS / "ray"), "start", "--head", "--block", "--disable-usage-stats",
                "--num-cpus=2", "--include-dashboard=true", f"--temp-dir={folder}", "--port=0",
                f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
                f"--ray-client-server-port={client}",
            ]  # fmt: skip
            with log.open("w") as output:
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdout=output,
                    stderr=output,
                    preexec_fn=end_with_parent,
                )
            try:
                if _takes_jobs(process, head, log):
                    yield head
                    return
            finally:
                _end(process)
        raise RuntimeError(f"the Ray head did not come up:\n{log.read_text()}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _takes_jobs(process: subprocess.Popen[bytes], head: RayHead, log: Path) -> bool:
    """Wait for the head; False if it died, or is not there in time.

    On a busy machine a node may register so late that Ray's client server has given up, and
    ``ray start --block`` ends a head that has lost a part within a second of being up.
    """
    bearer = {"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"}
    request = urllib.request.Request(f"{head.address}/api/jobs/", headers=bearer)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
        if "will now block forever" not in log.read_text():
            continue
        with contextlib.suppress(OSError):
            urllib.request.urlopen(request, timeout=5).close()
            time.sleep(SETTLING_S)
            return process.poll() is None
    return False


def end_with_parent() -> None:
    """Have Linux end the head, and it its parts, if the tests are killed before they can."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes]) -> None:
    family = [psutil.Process(process.pid)] if process.poll() is None else []
    family += [child for parent in family for child in parent.children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=END_TIMEOUT_S)
    for left in alive:
        left.kill()
    psutil.wait_procs(alive, timeout=END_TIMEOUT_S)
    process.wait()


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]
