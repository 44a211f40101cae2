"""What MLflow holds of a run: found again by its tags, and never written twice.

Everything here waits for MLflow and may fail; `BackgroundWriter` calls it in its thread.
"""

import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

from orchestrator.durable.events import BY_TIME
from orchestrator.tracking.database import create_database
from orchestrator.tracking.location import artifact_location, public, sqlite_file
from orchestrator.tracking.names import TAG_LENGTH, clean_key, cut
from orchestrator.tracking.point import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Item = TypeVar("Item")
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

_METRICS_PER_REQUEST = 1000
_DATASET_DIGITS = 36
_PARAMS_PER_REQUEST = 100
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500
_CHATTY = ("mlflow", "alembic")
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # The writer retries; MLflow's own seven attempts would hold up its closing for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""MLflow takes these from the environment only; what a user has set there stays."""


def open_client(uri: str) -> "MlflowClient":
    """Import MLflow, which takes seconds, and connect.

    What goes wrong is raised and told by us, so MLflow's own log lines are switched off.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    database = sqlite_file(uri)
    if database is not None and not database.exists():
        create_database(database)
    return MlflowClient(tracking_uri=uri)


def open_experiment(client: "MlflowClient", uri: str, name: str, store_url: str) -> str:
    """Id of the experiment ``name``, created where it is missing.

    Raises:
        TrackingError: If the experiment has been deleted.
    """
    from orchestrator.tracking.errors import TrackingError

    found = client.get_experiment_by_name(name)
    if found is None:
        location = artifact_location(uri, store_url)
        return str(client.create_experiment(name, artifact_location=location))
    if found.lifecycle_stage != "active":
        raise TrackingError(
            public(uri),
            f"experiment {name!r} is deleted; restore it with `mlflow experiments restore "
            f"--experiment-id {found.experiment_id}` or set tracking.experiment",
        )
    return str(found.experiment_id)


class Records:
    """MLflow runs by identity tags, and points that know whether they are already there.

    Args:
        uri: Tracking URI.
        experiment: Name of the experiment; created where it is missing.
        store_url: Of the store that keeps the results.

    Attributes:
        client: MLflow itself.
        experiment_id: Of ``experiment``.

    Raises:
        TrackingError: If the experiment has been deleted.
    """

    def __init__(self, uri: str, experiment: str, store_url: str) -> None:
        self.client = open_client(uri)
        self.experiment_id = open_experiment(self.client, uri, experiment, store_url)
        self._logged: dict[str, dict[str, set[int]]] = {}

    def find(self, identity: Mapping[str, str]) -> str | None:
        """Id of the oldest run that carries the tags ``identity``, or None."""
        clauses = [f"tags.`{key}` = '{value}'" for key, value in identity.items()]
        found = self.client.search_runs(
            [self.experiment_id],
            filter_string=" and ".join(clauses),
            order_by=["attributes.start_time ASC"],
            max_results=1,
        )
        return str(found[0].info.run_id) if found else None

    def open_run(self, identity: Mapping[str, str], *, name: str, parent: str | None = None) -> str:
        """Continue the run that carries the tags ``identity``, or create it; returns its id."""
        run_id = self.find(identity)
        if run_id is not None:
            self.client.update_run(run_id, status="RUNNING")
            return run_id
        tags = dict(identity) | ({"mlflow.parentRunId": parent} if parent else {})
        run = self.client.create_run(self.experiment_id, tags=tags, run_name=name)
        self._logged[run.info.run_id] = defaultdict(set)
        return str(run.info.run_id)

    def status(self, run_id: str) -> str:
        """The status of a run in MLflow's words."""
        return str(self.client.get_run(run_id).info.status)

    def close_run(self, run_id: str, status: Status) -> None:
        """Set the final status and the end time of a run."""
        self.client.set_terminated(run_id, status=status)

    def points(self, run_id: str, points: Sequence[Point]) -> None:
        """Write the points whose (key, step) is not there yet."""
        from mlflow.entities import Metric

        logged = self._already_logged(run_id)
        fresh: dict[tuple[str, int], Point] = {}
        for point in points:
            key = clean_key(point.key)
            if point.step not in logged[key]:
                fresh.setdefault((key, point.step), point)
        metrics = [
            Metric(key, float(point.value), point.time_ms, step)
            for (key, step), point in fresh.items()
        ]
        for batch in _batches(metrics, _METRICS_PER_REQUEST):
            # Forgotten before, remembered after: a request that fails may have half happened.
            self._logged.pop(run_id, None)
            self.client.log_batch(run_id, metrics=batch)
            for metric in batch:
                logged[metric.key].add(metric.step)
            self._logged[run_id] = logged

    def params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Write parameters; one that a resumed run changed (a worker count) becomes a tag.

        MLflow refuses to change a parameter.
        """
        from mlflow.entities import Param

        present = self._run(run_id).data.params
        fresh = [Param(key, value) for key, value in params.items() if key not in present]
        for batch in _batches(fresh, _PARAMS_PER_REQUEST):
            self.client.log_batch(run_id, params=batch)
        changed = {key: value for key, value in params.items() if present.get(key, value) != value}
        self.tags(run_id, {f"gammaray.now.{key}": value for key, value in changed.items()})

    def tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags; a later value replaces an earlier one."""
        from mlflow.entities import RunTag

        entities = [RunTag(clean_key(key), cut(value, TAG_LENGTH)) for key, value in tags.items()]
        for batch in _batches(entities, _PARAMS_PER_REQUEST):
            self.client.log_batch(run_id, tags=batch)

    def text(self, run_id: str, text: str, name: str) -> None:
        """Attach a text as the file ``name``."""
        self.client.log_text(run_id, text, name)

    def json(self, run_id: str, document: Mapping[str, object], name: str) -> None:
        """Attach ``document`` as the file ``name``."""
        self.client.log_text(run_id, json.dumps(document, indent=2), name)

    def dataset(self, run_id: str, *, name: str, digest: str, source: str, context: str) -> None:
        """Note that a run has read a dataset; the same one is noted once.

        Args:
            run_id: Who read it.
            name: What it is called.
            digest: Of all its files; MLflow keeps the first 36 digits.
            source: Where it is kept, without credentials.
            context: What it was read for.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        read = Dataset(
            name=name,
            digest=digest[:_DATASET_DIGITS],
            source_type="gammaray store",
            source=json.dumps({"url": source, "digest": digest}),
        )
        tags = [InputTag("mlflow.data.context", context)]
        self.client.log_inputs(run_id, datasets=[DatasetInput(read, tags)])

    def discard(self, run_id: str) -> None:
        """Move a run to MLflow's trash, from which it can be restored."""
        self.client.delete_run(run_id)

    def _already_logged(self, run_id: str) -> dict[str, set[int]]:
        if run_id not in self._logged:
            keys = self._run(run_id).data.metrics
            steps = {
                key: {metric.step for metric in self.client.get_metric_history(run_id, key)}
                # Points that tell the time of a machine are many, and never repeated.
                for key in keys
                if not key.startswith(BY_TIME)
            }
            self._logged[run_id] = defaultdict(set, steps)
        return self._logged[run_id]

    def _run(self, run_id: str) -> "Run":
        return self.client.get_run(run_id)


def is_passing(error: Exception) -> bool:
    """Whether trying again may cure ``error``: a server away or overloaded, a locked database."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        status = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
        return status >= _SERVER_ERROR or status == _TOO_MANY_REQUESTS
    return isinstance(error, ConnectionError | TimeoutError) or "requests" in type(error).__module__


def _batches(items: Sequence[Item], size: int) -> Iterable[list[Item]]:
    return (list(items[start : start + size]) for start in range(0, len(items), size))
