"""What a step prints, kept in the store: readable when the machine that ran it is gone."""

import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TextIO

from orchestrator.secrets import without_credentials
from orchestrator.store import Store, StoreError


def output_path(run_id: str, step: str, epoch: int, attempt: int) -> str:
    """Where in the store the output of one attempt is."""
    return f"runs/{run_id}/output/{step}/e{epoch:06d}-a{attempt:03d}.txt"


@contextmanager
def kept_output(store: Store, path: str) -> Iterator[None]:
    """Copy what is printed, and the error that ends the block, to ``path``; nothing if silent.

    Credentials of an address are left out of the copy.
    In a local store it is there at once, in a remote one at the end of the block.
    """
    with ExitStack() as leaving:
        file = store.local_path(path)
        if file is None:
            scratch = leaving.enter_context(tempfile.TemporaryDirectory(prefix="gammaray-"))
            file = Path(scratch, "output")
        copy = _Copy(file)
        leaving.callback(_keep, store, path, file)
        leaving.callback(copy.close)
        leaving.enter_context(redirect_stdout(_Tee(sys.stdout, copy)))  # type: ignore[type-var]
        leaving.enter_context(redirect_stderr(_Tee(sys.stderr, copy)))  # type: ignore[type-var]
        try:
            yield
        except BaseException:
            copy.write(traceback.format_exc())
            raise


class _Copy:
    """A file that is made when there is something to write; trouble with it stops nobody."""

    def __init__(self, path: Path) -> None:
        self._path, self._is_open = path, True
        self._file: TextIO | None = None

    def write(self, text: str) -> None:
        if not self._is_open:
            return
        with suppress(OSError):
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("a", buffering=1)
            self._file.write(without_credentials(text))

    def close(self) -> None:
        self._is_open = False
        if self._file is not None:
            with suppress(OSError):
                self._file.close()


class _Tee:
    """A stream that also writes to a copy; all else is the stream's own."""

    def __init__(self, stream: TextIO, copy: _Copy) -> None:
        self._stream, self._copy = stream, copy

    def write(self, text: str) -> int:
        self._copy.write(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def _keep(store: Store, path: str, file: Path) -> None:
    if store.local_path(path) is None and file.exists():
        with suppress(StoreError, OSError):
            store.upload(file, path)
