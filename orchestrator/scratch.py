"""Temporary folders that are found and removed when their process was killed."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.process import is_dead, process_identity

_PREFIX = "gammaray-"


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for all temporary files of this process, those of libraries included.

    It is named after the process, and `sweep` removes it if the process does not.
    """
    me = process_identity()
    prefix = f"{_PREFIX}{_machine(me)}-{me['pid']}-{me['process_start']}-"
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


def sweep() -> None:
    """Remove what killed processes of this machine have left."""
    me = process_identity()
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}{_machine(me)}-*-*-*"):
        _, _, pid, start, *_ = folder.name.split("-")
        if is_dead({**me, "pid": int(pid), "process_start": start}):
            shutil.rmtree(folder, ignore_errors=True)


def _machine(identity: dict[str, object]) -> str:
    """Containers may share a temporary folder but not their process numbers."""
    return hashlib.sha256(f"{identity['host']} {identity['boot']}".encode()).hexdigest()[:8]
