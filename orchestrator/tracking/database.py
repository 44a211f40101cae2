"""A new sqlite database of MLflow: there whole, or not there at all."""

import os
import sqlite3
import uuid
import warnings
from contextlib import closing, suppress
from pathlib import Path


def create_database(database: Path) -> None:
    """Build MLflow's tables aside and link the file into place.

    MLflow builds them by dozens of migrations that sqlite does not undo: a process killed in the
    midst of them would leave a database that no later one can open.

    Args:
        database: Where it shall lie; if another process is first, its database stays.
    """
    from mlflow import MlflowClient

    database.parent.mkdir(parents=True, exist_ok=True)
    aside = database.with_name(f".{database.name}.{uuid.uuid4().hex}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of MLflow's own tables
            MlflowClient(tracking_uri=f"sqlite:///{aside}").search_experiments()
        with closing(sqlite3.connect(aside)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with suppress(FileExistsError):
            os.link(aside, database)
    finally:
        for left in database.parent.glob(f"{aside.name}*"):
            left.unlink(missing_ok=True)
