"""A store behind fsspec, such as S3 or GCS."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import fsspec
from fsspec.asyn import AsyncFileSystem

from orchestrator.durable.errors import StoreError
from orchestrator.durable.local import file_record
from orchestrator.durable.store import FileRecord, check_path


@dataclass(frozen=True, slots=True)
class FsspecStore:
    """Objects under a prefix of any fsspec file system that can create without overwriting."""

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

    def create(self, path: str, data: bytes) -> bool:
        """Put with If-None-Match, or what the service has in its place."""
        try:
            self._filesystem.pipe_file(self._path(path), data, mode="create")
        except FileExistsError:
            return False
        return True

    def read(self, path: str) -> bytes:
        """Return an object's bytes."""
        return cast(bytes, self._filesystem.cat_file(self._path(path)))

    def overwrite(self, path: str, data: bytes) -> None:
        """Put: object stores replace whole objects."""
        self._filesystem.pipe_file(self._path(path), data)

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return bool(self._filesystem.isfile(self._path(path)))

    def list(self, prefix: str) -> list[str]:
        """All objects below a prefix."""
        start = len(self._root) + 1
        return sorted(found[start:] for found in self._filesystem.find(self._path(prefix)))

    def delete(self, prefix: str) -> None:
        """Remove an object, or all below a prefix."""
        filesystem, path = self._filesystem, self._path(prefix)
        if filesystem.exists(path):
            filesystem.rm(path, recursive=True)

    def upload(self, local: Path, path: str) -> FileRecord:
        """Put a file, in parts when it is large."""
        self._filesystem.put_file(str(local), self._path(path))
        return file_record(local, path)

    def download(self, path: str, local: Path) -> None:
        """Get an object into a file."""
        self._filesystem.get_file(self._path(path), str(local))

    def local_path(self, path: str) -> None:
        """None: objects are elsewhere."""
        check_path(self.url, path)

    @property
    def _filesystem(self) -> fsspec.AbstractFileSystem:
        return self._opened()[0]

    @property
    def _root(self) -> str:
        return self._opened()[1].rstrip("/")

    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        try:
            # fsspec keeps one instance per set of options, so this is a look-up. Listings
            # must not be cached: other drivers write too.
            return cast(
                "tuple[fsspec.AbstractFileSystem, str]",
                fsspec.url_to_fs(self.url, use_listings_cache=False),
            )
        except (ImportError, ValueError) as error:
            raise StoreError(self.url, "", f"cannot open it: {error}") from error

    def _path(self, path: str) -> str:
        return f"{self._root}/{check_path(self.url, path)}"


def _creates_exclusively(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Whether this kind implements create-only itself: fsspec's own default is a race."""
    kind = type(filesystem)
    method = kind._pipe_file if isinstance(filesystem, AsyncFileSystem) else kind.pipe_file
    is_default = method is fsspec.AbstractFileSystem.pipe_file
    return not is_default and "mode" in inspect.signature(method).parameters
