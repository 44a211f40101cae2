"""``chaos://``: a directory that behaves like an object store in trouble, when told to.

Every process of a run opens it by its URL, and looks for orders in a file beside the store, so
that trouble strikes driver and workers alike. fsspec finds it by an entry point.
"""

import errno
import json
import os
import random
import time
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from orchestrator.chaos.faults import FaultKind

ORDERS = "orders.json"
_SLOW_S = 0.3
_SHARE_TRUNCATED = 0.5


class ServiceUnavailableError(Exception):
    """What a store answers that is overloaded; ``code`` is the HTTP status."""

    code = 503


def give_orders(arena: Path, kind: FaultKind, seconds: float) -> None:
    """Let the store in ``arena`` have trouble from now on, for some seconds.

    The clock of the orders is monotonic, and one for all processes of the machine.
    """
    aside = arena / f"{ORDERS}.new"
    aside.write_text(json.dumps({"kind": kind, "until": time.monotonic() + seconds}))
    aside.replace(arena / ORDERS)


class ChaosFileSystem(LocalFileSystem):  # type: ignore[misc]
    """A local directory whose operations fail, crawl or lie while there are orders to."""

    protocol = "chaos"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:  # noqa: ANN401 - fsspec's own
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return LocalFileSystem._strip_protocol(str(path).removeprefix("chaos://"))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:  # noqa: ANN401
        """Write an object whole, or with ``mode="create"`` only where there is none."""
        kind = self._trouble(path)
        _fail(kind, path)
        target = Path(self._strip_protocol(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{os.getpid()}.{random.getrandbits(48):x}")
        try:
            if kind is FaultKind.FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            aside.write_bytes(value)
            if mode == "create":
                os.link(aside, target)
            else:
                aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)

    def put_file(self, lpath: str, rpath: str, *_: Any, **__: Any) -> None:  # noqa: ANN401
        """Write a local file as an object."""
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def cat_file(self, path: str, *args: Any, **options: Any) -> bytes:  # noqa: ANN401
        """Read an object; of a truncated one a client notices that bytes are missing."""
        kind = self._trouble(path)
        _fail(kind, path)
        data = Path(self._strip_protocol(path)).read_bytes()
        if _truncates(kind):
            raise ConnectionError(f"{len(data) // 2} of {len(data)} bytes came: {path}")
        return data

    def get_file(self, rpath: str, lpath: str, *_: Any, **__: Any) -> None:  # noqa: ANN401
        """Read an object into a local file; of a truncated one, half and no word about it."""
        kind = self._trouble(rpath)
        _fail(kind, rpath)
        data = Path(self._strip_protocol(rpath)).read_bytes()
        Path(lpath).parent.mkdir(parents=True, exist_ok=True)
        Path(lpath).write_bytes(data[: len(data) // 2] if _truncates(kind) else data)

    def info(self, path: str, **options: Any) -> Any:  # noqa: ANN401
        """Look an object up."""
        _fail(self._trouble(path), path)
        return super().info(path, **options)

    def find(self, path: str, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """List what is below a folder."""
        _fail(self._trouble(path), path)
        return super().find(path, *args, **options)

    def _trouble(self, path: str) -> FaultKind | None:
        """The trouble of this moment; a slow store has taken its time already."""
        for folder in Path(self._strip_protocol(path)).parents:
            try:
                orders = json.loads((folder / ORDERS).read_text())
            except FileNotFoundError:
                continue
            if orders["until"] < time.monotonic():
                return None
            kind = FaultKind(orders["kind"])
            if kind is FaultKind.SLOW:
                time.sleep(_SLOW_S)
            return kind
        return None


def _fail(kind: FaultKind | None, path: str) -> None:
    if kind is FaultKind.UNAVAILABLE:
        raise ServiceUnavailableError(f"503 Slow Down: {path}")


def _truncates(kind: FaultKind | None) -> bool:
    return kind is FaultKind.TRUNCATED and random.random() < _SHARE_TRUNCATED
