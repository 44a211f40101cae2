"""Where runs and artifacts are kept: the interface of a store, and how to open one."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from orchestrator.store.errors import StoreError

FORMAT = 1
"""Version of the layout of a store; a store of a newer one is refused."""

_FORMAT_PATH = "format.json"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One stored file: where, how many bytes, and their SHA-256 in hexadecimal digits."""

    path: str
    size: int
    sha256: str


class Store(Protocol):
    """A tree of objects whose names are relative, "/"-separated and never escape it.

    Every method raises ``StoreError`` for such a name, and when the store cannot be used.
    """

    @property
    def url(self) -> str:
        """What ``open_store`` took; holds no credentials."""

    @property
    def is_shared(self) -> bool:
        """Whether every machine of a cluster sees the same objects."""

    def create(self, path: str, data: bytes, *, is_durable: bool = True) -> bool:
        """Write a new object, whole or not at all; False if there is one already.

        With ``is_durable`` off it may be gone or empty after a power cut.

        A remote store may also answer True when the one that is there holds the very same bytes.
        """

    def read(self, path: str) -> bytes:
        """Return an object's bytes; raises FileNotFoundError."""

    def overwrite(self, path: str, data: bytes) -> None:
        """Replace an object atomically. For heartbeats and status, never for results."""

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""

    def list(self, prefix: str) -> list[str]:
        """All object paths below a folder, sorted; empty when there is no such folder."""

    def delete(self, prefix: str) -> None:
        """Remove an object, or a folder with all in it; nothing happens when absent."""

    def upload(self, local: Path, path: str) -> FileRecord:
        """Copy a file into the store durably (in place: only make it durable)."""

    def download(self, path: str, local: Path) -> None:
        """Copy an object to a local file; raises FileNotFoundError."""

    def local_path(self, path: str) -> Path | None:
        """Where an object or folder lies on this machine, or None when the store is remote."""

    def check_create_only(self) -> None:
        """Raise StoreError if a second ``create`` could overwrite the first: see two writers."""


def check_path(store: Store, path: str) -> str:
    """Return ``path`` if it names something inside a store.

    Raises:
        StoreError: If it is absolute, empty, or has empty, ``.`` or ``..`` parts.
    """
    parts = path.split("/")
    if "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise StoreError(
            store.url,
            path,
            "name escapes the store: expected relative parts joined by '/', such as 'a/b'",
        )
    return path


def discard(store: Store, prefix: str) -> None:
    """Remove leftovers; they cost space, nothing else, so that trouble with them stops nobody."""
    with suppress(StoreError, OSError):
        store.delete(prefix)


def open_store(url: str) -> Store:
    """Open the store at ``url``, made on first use.

    Args:
        url: A directory (``/data/runs``, ``file:///data/runs``), with ``?shared=true`` on the
            URL if every node of the cluster mounts it; or what fsspec knows, such as
            ``s3://bucket/prefix``. Credentials come from the environment, never from here.

    Raises:
        StoreError: If it cannot be written, or was written by a newer version.
    """
    parts = urlsplit(url)
    store: Store
    if parts.scheme in ("", "file"):
        from orchestrator.store.local import LocalStore

        place = unquote(parts.path) if parts.scheme else url
        is_shared = parse_qs(parts.query).get("shared", ["false"]) == ["true"]
        store = LocalStore(Path(place).expanduser().resolve(), is_shared)
    else:
        from orchestrator.store.remote import FsspecStore

        if parts.username or parts.password or parts.query:
            place = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
            reason = "holds credentials or options: give them by the environment, such as AWS_*"
            raise StoreError(place, "", f"the address {reason}")
        store = FsspecStore(url)
    _check_format(store)
    return store


def _check_format(store: Store) -> None:
    try:
        found = store.read(_FORMAT_PATH)
    except FileNotFoundError:
        store.create(_FORMAT_PATH, json.dumps({"format": FORMAT}).encode())
        found = store.read(_FORMAT_PATH)
    except OSError as error:
        raise StoreError(store.url, "", f"cannot be read: {error}", error.errno) from error
    try:
        version = json.loads(found)["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            store.url, _FORMAT_PATH, "is not a gammaray store's format file"
        ) from error
    if version != FORMAT:
        raise StoreError(
            store.url,
            _FORMAT_PATH,
            f"store has format {version}, this version reads {FORMAT}: use the gammaray that wrote "
            "it, or another store",
        )
