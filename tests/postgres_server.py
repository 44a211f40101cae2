"""A PostgreSQL server of our own on loopback, where PostgreSQL is installed."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_PATIENCE_S = 120.0
_DEBIAN = Path("/usr/lib/postgresql")
_NOBODY_IN_PARTICULAR = ("postgres", "nobody")


@contextmanager
def running_postgres(folder: Path) -> Iterator[str]:
    """The address of a new, empty database; skips the test where there is no PostgreSQL."""
    binaries = _binaries()
    data, port = folder / "data", _free_port()
    account = _account(folder)
    init = [str(binaries / "initdb"), "-D", str(data), "-U", "mlflow", "-A", "trust", "-E", "UTF8"]
    subprocess.run([*init, "--no-sync"], check=True, capture_output=True, cwd="/", **account)
    command = [str(binaries / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1"]
    command += ["-F", "-c", "unix_socket_directories="]
    with (
        (folder / "postgres.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **account) as process,
    ):
        try:
            place = f"mlflow@127.0.0.1:{port}/postgres"
            _wait(f"postgresql://{place}", process)
            # SQLAlchemy 2.1 takes the bare name for psycopg 3.
            yield f"postgresql+psycopg2://{place}"
        finally:
            process.send_signal(signal.SIGINT)


def _binaries() -> Path:
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(_DEBIAN.glob("*/bin"))
    folders = [folder for folder in folders if (folder / "postgres").exists()]
    if not folders:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    pytest.importorskip("psycopg2", reason="needs psycopg2: pip install 'gammaray[postgres]'")
    return folders[-1]


def _account(folder: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root, so that root has to lend it another account."""
    if os.geteuid() != 0:
        return {}
    for name in _NOBODY_IN_PARTICULAR:
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, account.pw_uid, account.pw_gid)
        for parent in folder.parents:
            if not os.access(parent, os.X_OK) or not parent.stat().st_mode & 0o001:
                pytest.skip(f"PostgreSQL cannot run as root, and {name} cannot enter {parent}")
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL cannot run as root, and there is no account postgres or nobody")


def _wait(address: str, process: "subprocess.Popen[bytes]") -> None:
    import psycopg2

    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            psycopg2.connect(address).close()
        except psycopg2.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
