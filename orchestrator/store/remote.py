"""A store behind fsspec, such as S3 or GCS."""

import inspect
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import fsspec
from fsspec.asyn import AsyncFileSystem

from orchestrator.store.errors import StoreError
from orchestrator.store.local import file_record
from orchestrator.store.store import FileRecord, check_path
from orchestrator.store.trouble import Trouble, is_taken

Result = TypeVar("Result")

PAUSES_S = (0.5, 2.0)
"""Waits before an operation is tried again. The libraries below retry single requests, and a step
is tried again by the run: this is for services that say "slow down" for some seconds."""

_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"retries": {"total_max_attempts": 4, "mode": "standard"}}}
}
_READ_OPTIONS = {"s3": {"max_concurrency": 1}}
"""A small object is read by one request; by default s3fs asks for its size before."""

_WRITE_OPTIONS = {"s3": {"chunksize": 16 << 20}}
"""Bytes of a part: a part that fails is sent again, not the whole file."""


@dataclass(frozen=True, slots=True)
class FsspecStore:
    """Objects under a prefix of any fsspec file system that can create without overwriting.

    Credentials come from the environment of each process. What a service answers is passed on as
    ``StoreError`` without its cause, which may hold the request with its signature.
    """

    url: str

    def __post_init__(self) -> None:
        if not _creates_exclusively(self._filesystem):
            raise StoreError(
                self.url,
                "",
                f"{type(self._filesystem).__name__} cannot create an object only if it is absent, "
                "so two writers could not be told apart: update it (s3fs and gcsfs can since "
                "2024.10), or use another store",
            )

    @property
    def is_shared(self) -> bool:
        """Every machine reaches it."""
        return True

    def create(self, path: str, data: bytes, *, is_durable: bool = True) -> bool:
        """Put with If-None-Match, or what the service has in its place.

        The answer to a put can be lost, and its repetition then finds the object there: so one
        that holds the very same bytes counts as created.
        """

        def put() -> bool:
            try:
                self._filesystem.pipe_file(self._path(path), data, mode="create")
            except Exception as error:
                if not is_taken(error):
                    raise
                return False
            return True

        return self._try(path, "create", put) or self.read(path) == data

    def read(self, path: str) -> bytes:
        """Return an object's bytes; the service's checksum is verified where it has one."""
        options = _READ_OPTIONS.get(self._protocol, {})
        return self._try(
            path,
            "read",
            lambda: cast(bytes, self._filesystem.cat_file(self._path(path), **options)),
        )

    def overwrite(self, path: str, data: bytes) -> None:
        """Put: object stores replace whole objects."""
        self._try(path, "write", lambda: self._filesystem.pipe_file(self._path(path), data))

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        try:
            # fsspec's own ``isfile`` takes every error for absence.
            found = self._try(path, "look up", lambda: self._filesystem.info(self._path(path)))
        except FileNotFoundError:
            return False
        return bool(found["type"] == "file")

    def list(self, prefix: str) -> list[str]:
        """All objects below a prefix."""
        found = self._try(prefix, "list", lambda: self._filesystem.find(self._path(prefix)))
        names = (path[len(self._root) + 1 :] for path in found)
        # Some services show a folder that was emptied as an object of its own.
        return sorted(name for name in names if name.startswith(f"{prefix}/"))

    def delete(self, prefix: str) -> None:
        """Remove an object, or all below a prefix."""

        def remove() -> None:
            filesystem, path = self._filesystem, self._path(prefix)
            if filesystem.exists(path):
                filesystem.rm(path, recursive=True)

        self._try(prefix, "remove", remove)

    def upload(self, local: Path, path: str) -> FileRecord:
        """Put a file, in parts when it is large."""
        options = _WRITE_OPTIONS.get(self._protocol, {})
        self._try(
            path,
            "write",
            lambda: self._filesystem.put_file(str(local), self._path(path), **options),
        )
        return file_record(local, path)

    def download(self, path: str, local: Path) -> None:
        """Get an object into a file, as many bytes as the service says that it has."""

        def get() -> None:
            place = self._path(path)
            self._filesystem.get_file(place, str(local))
            came, size = local.stat().st_size, self._filesystem.info(place)["size"]
            if came != size:
                raise ConnectionError(f"{came} of {size} bytes came")

        self._try(path, "read", get)

    def local_path(self, path: str) -> None:
        """None: objects are elsewhere."""
        check_path(self, path)

    def check_create_only(self) -> None:
        """Ask the service itself: some ignore the condition of a put, and overwrite."""
        probe = f"probe/{uuid.uuid4().hex}"
        try:
            is_safe = self.create(probe, b"first") and not self.create(probe, b"second")
        finally:
            self.delete(probe)
        if not is_safe:
            raise StoreError(
                self.url,
                "",
                "this service overwrites where it was asked to create only (If-None-Match: *), so "
                "two drivers could not be told apart: update it, or use another store",
            )

    def _try(self, path: str, verb: str, call: Callable[[], Result]) -> Result:
        """Call, and again after a pause while the trouble may pass.

        Raises:
            FileNotFoundError: If there is no such object.
            StoreError: If it did not pass; with ``errno.ETIMEDOUT`` if it still may.
        """
        for pause_s in (*PAUSES_S, None):
            try:
                return call()
            except (FileNotFoundError, StoreError):
                raise
            except Exception as error:  # noqa: BLE001 - each service raises its own
                found = Trouble.behind(error)
            if not found.may_pass or pause_s is None:
                break
            time.sleep(pause_s * random.uniform(0.5, 1.0))
        # Raised outside of the handler, so that the cause does not come along.
        raise StoreError(self.url, path, f"cannot {verb}: {found.text}", found.error_number)

    @property
    def _filesystem(self) -> fsspec.AbstractFileSystem:
        return self._opened()[0]

    @property
    def _root(self) -> str:
        return self._opened()[1].rstrip("/")

    @property
    def _protocol(self) -> str:
        return self.url.partition(":")[0]

    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        try:
            # fsspec keeps one instance per set of options, so this is a look-up. Listings
            # must not be cached: other drivers write too.
            return cast(
                "tuple[fsspec.AbstractFileSystem, str]",
                fsspec.url_to_fs(
                    self.url, use_listings_cache=False, **_OPTIONS.get(self._protocol, {})
                ),
            )
        except (ImportError, ValueError) as error:
            advice = ": pip install 'gammaray[s3]'" if isinstance(error, ImportError) else ""
            raise StoreError(self.url, "", f"cannot open it: {error}{advice}") from error

    def _path(self, path: str) -> str:
        return f"{self._root}/{check_path(self, path)}"


def _creates_exclusively(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Whether this kind implements create-only itself: fsspec's own default is a race."""
    kind = type(filesystem)
    method = kind._pipe_file if isinstance(filesystem, AsyncFileSystem) else kind.pipe_file
    is_default = method is fsspec.AbstractFileSystem.pipe_file
    return not is_default and "mode" in inspect.signature(method).parameters
