"""Files of a user's dataset, by a path on this machine or a URL that fsspec knows."""

import posixpath
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, cast

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from workloads.errors import DataError

_READS_AT_ONCE = 16
_NOT_THERE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


def file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """Return what reads a URL or path, and the path in it.

    Raises:
        DataError: If nothing that is installed knows such URLs.
    """
    try:
        fs, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        reason = f"cannot be read ({error}); S3 wants pip install 'gammaray[s3]'"
        raise DataError(url, "", reason) from error
    return fs, str(path)


def is_on_this_machine(url: str) -> bool:
    """Whether other machines may not see the file."""
    return isinstance(file_system(url)[0], LocalFileSystem)


def open_file(url: str) -> BinaryIO:
    """Open for reading from any position.

    Raises:
        DataError: If there is no such file, or it may not be read.
    """
    fs, path = file_system(url)
    try:
        return cast(BinaryIO, fs.open(path, "rb"))
    except (*_NOT_THERE, PermissionError) as error:
        reason = f"cannot be read ({error.strerror or error}); check the path"
        raise DataError(url, "", reason) from error


class ImageFolder:
    """Where a dataset's images lie, each under a path relative to it."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/") or "/"
        self._fs, self._path = file_system(self.root)
        self._is_local = isinstance(self._fs, LocalFileSystem)
        self._resolved = Path(self._path).resolve() if self._is_local else Path()

    def locate(self, name: str) -> str:
        """The path of an image in its file system.

        Raises:
            ValueError: If it lies outside the folder.
        """
        if self._is_local:
            is_inside = (Path(self._path) / name).resolve().is_relative_to(self._resolved)
        else:
            whole = posixpath.normpath(posixpath.join(self._path, name))
            is_inside = whole.startswith(f"{self._path.rstrip('/')}/")
        if not is_inside:
            raise ValueError(f"lies outside the image root {self.root}")
        return posixpath.join(self._path, name)

    def read(self, names: Iterable[str]) -> Mapping[str, bytes | None]:
        """Bytes of images by name, None for those that are not there.

        Raises:
            OSError: If one is there and cannot be read.
        """
        wanted = list(names)
        if self._is_local:
            return {name: self._read_one(name) for name in wanted}
        with ThreadPoolExecutor(_READS_AT_ONCE) as threads:
            return dict(zip(wanted, threads.map(self._read_one, wanted), strict=True))

    def _read_one(self, name: str) -> bytes | None:
        path = posixpath.join(self._path, name)
        try:
            if self._is_local:
                return Path(path).read_bytes()
            content: Any = self._fs.cat_file(path)
        except _NOT_THERE:
            return None
        return bytes(content)
