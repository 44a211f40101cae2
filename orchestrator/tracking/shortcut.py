"""Single questions to a sqlite database of MLflow, answered without importing MLflow.

The import and the opening of its store take 3 seconds, which a run that has nothing to do
would spend on nothing else. Whoever gets None asks MLflow itself.
"""

import sqlite3

from orchestrator.tracking.location import sqlite_file

_FINISHED_RUNS = """
    SELECT COUNT(*) FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid
    WHERE tags.key = 'gammaray.run_id' AND tags.value = ?
    AND runs.status = 'FINISHED' AND runs.lifecycle_stage = 'active'
"""
_VERSIONS = """
    SELECT COUNT(*) FROM model_versions JOIN model_version_tags AS tags
    ON tags.name = model_versions.name AND tags.version = model_versions.version
    WHERE model_versions.name = ? AND model_versions.version = ?
    AND tags.key = 'gammaray.digest' AND tags.value = ?
    AND model_versions.current_stage != 'Deleted_Internal'
"""


def finished_runs(uri: str, run_id: str) -> int | None:
    """How many finished runs, parent and children, carry the tag ``gammaray.run_id``."""
    return _count(uri, _FINISHED_RUNS, (run_id,))


def versions(uri: str, name: str, version: str, digest: str) -> int | None:
    """How many versions ``version`` of model ``name`` carry the tag ``gammaray.digest``: 0 or 1."""
    return _count(uri, _VERSIONS, (name, int(version), digest))


def _count(uri: str, query: str, values: tuple[object, ...]) -> int | None:
    database = sqlite_file(uri)
    if database is None:
        return None
    if not database.exists():
        return 0
    try:
        connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
        try:
            return int(connection.execute(query, values).fetchone()[0])
        finally:
            connection.close()
    except sqlite3.Error:
        return None
