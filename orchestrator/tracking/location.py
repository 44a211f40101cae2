"""Where MLflow keeps its records, and whether it can be reached, found out without importing it."""

import os
import socket
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.secrets import without_credentials
from orchestrator.tracking.errors import TrackingAwayError, TrackingError

_SQLITE = "sqlite:///"
_FILES = "mlflow-artifacts"
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def resolve_tracking_uri(configured: str | None, store_url: str) -> str:
    """The recipe's tracking URI, absolute; by default a sqlite database in a local store.

    Raises:
        TrackingError: If none is configured and the store is no local folder, as sqlite needs.
    """
    if configured is not None:
        database = sqlite_file(configured)
        return configured if database is None else f"{_SQLITE}{database}"
    scheme = urlsplit(store_url).scheme
    if scheme not in ("", "file"):
        raise TrackingError(
            "sqlite",
            f"its database must lie in a local folder, but the store is {public(store_url)}; "
            "set tracking.uri to a server, such as http://mlflow.example:5000",
        )
    folder = Path(unquote(urlsplit(store_url).path) if scheme else store_url).absolute()
    return f"{_SQLITE}{folder}/mlflow.db"


def artifact_location(uri: str, store_url: str) -> str | None:
    """Where the files of a database's runs go; None where a server decides.

    Beside a sqlite database. For a database on another machine that no MLflow server stands
    before, in the store, which every machine of a run can reach.
    """
    database = sqlite_file(uri)
    if database is not None:
        return (database.parent / _FILES).as_uri()
    if urlsplit(uri).scheme.partition("+")[0] in _DATABASE_PORTS:
        return f"{store_url.rstrip('/')}/{_FILES}"
    return None


def sqlite_file(uri: str) -> Path | None:
    """The absolute path of the database that ``uri`` names; None if it names another kind."""
    path = uri.removeprefix(_SQLITE).partition("?")[0]
    if not uri.startswith(_SQLITE) or path in ("", ":memory:"):
        return None
    return Path(path).absolute()


def public(uri: str) -> str:
    """``uri``, or a text around one, without user name and password, for messages and records."""
    return without_credentials(uri)


def check_reachable(uri: str, *, timeout_s: float = 5.0) -> None:
    """Find out in at most ``timeout_s`` seconds whether a run could be tracked at ``uri``.

    Raises:
        TrackingError: If it could not; nothing has been created.
    """
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        _check_server(uri, timeout_s)
    elif scheme.partition("+")[0] in _DATABASE_PORTS:
        _check_database_server(uri, timeout_s)
    elif scheme == "sqlite":
        _check_sqlite(uri)
    elif scheme != "databricks" and uri != "databricks":
        raise TrackingError(
            public(uri),
            "not a tracking URI that MLflow 3 takes; expected sqlite:////absolute/path/mlflow.db, "
            "http(s)://server:port or postgresql://... (folders are no longer supported)",
        )


def _check_server(uri: str, timeout_s: float) -> None:
    # urllib takes no credentials in an address, and would show them.
    request = urllib.request.Request(f"{public(uri).rstrip('/')}/health")
    try:
        with urllib.request.urlopen(request, timeout=timeout_s):
            return
    except urllib.error.HTTPError as error:
        # A server that asks for a password, or lives behind a proxy with no such path, is there.
        if error.code < 500:
            return
        reason = f"answers {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        reason = f"cannot be reached ({getattr(error, 'reason', error)})"
    raise TrackingAwayError(public(uri), f"{reason}; start it, or correct tracking.uri")


def _check_database_server(uri: str, timeout_s: float) -> None:
    parts = urlsplit(uri)
    port = parts.port or _DATABASE_PORTS[parts.scheme.partition("+")[0]]
    try:
        socket.create_connection((parts.hostname or "localhost", port), timeout_s).close()
    except OSError as error:
        raise TrackingAwayError(
            public(uri), f"cannot be reached ({error}); start it, or correct tracking.uri"
        ) from error


def _check_sqlite(uri: str) -> None:
    database = sqlite_file(uri)
    if database is None:
        raise TrackingError(
            uri, "names no database file; expected sqlite:////absolute/path/mlflow.db"
        )
    if database.exists():
        _check_is_database(uri, database)
    folder = next(parent for parent in database.parents if parent.exists())
    target = database if database.exists() else folder
    if not os.access(target, os.W_OK):
        raise TrackingError(
            uri, f"{target} is not writable; change its mode or set tracking.uri to another place"
        )


def _check_is_database(uri: str, database: Path) -> None:
    try:
        connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
        try:
            connection.execute("PRAGMA schema_version").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise TrackingError(
            uri, f"{database} is not a sqlite database ({error}); move it away to start a new one"
        ) from error
