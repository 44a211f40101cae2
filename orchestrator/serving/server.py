"""Starts the application on Ray Serve, and leaves nothing behind."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray import serve
from ray.exceptions import RayError

from orchestrator.ray_connection import connect
from orchestrator.serving.app import AppSettings
from orchestrator.serving.errors import ServingError
from orchestrator.serving.gateway import APPLICATION, MODEL, Gateway
from orchestrator.serving.options import ServeOptions
from orchestrator.serving.replica import ModelReplica
from orchestrator.serving.source import Source

_GOODBYE_S = 5.0
"""How long an answer may take to its end once the server is to stop."""
_LOOK_S = 0.1
"""How often a replica that is to stop looks whether it has nothing left to do."""


@contextmanager
def serving(
    source: Source, options: ServeOptions, settings: AppSettings, address: str | None
) -> Iterator[None]:
    """Serve a model for as long as the block lasts.

    Args:
        source: The model.
        options: How large, and where.
        settings: What the routes need to know.
        address: Ray cluster to use; None for one on this machine.

    Raises:
        RayUnavailableError: If Ray does not start, or does not answer.
        ServingError: If the cluster is too small or serves already, or the model does not load.
    """
    was_connected = ray.is_initialized()
    connect(address, uses_gpus=options.gpus > 0)
    try:
        _check_room(options)
        _check_free()
        # Its lines tell of actors and routes, which is nothing to whoever wants an address.
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        try:
            _listen(options)
            _deploy(source, options, settings)
            yield
        finally:
            serve.shutdown()  # type: ignore[no-untyped-call]
    finally:
        if not was_connected:
            ray.shutdown()


def _listen(options: ServeOptions) -> None:
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": options.host, "port": options.port},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
    except (RayError, RuntimeError, TimeoutError) as error:
        raise ServingError(
            f"Ray Serve does not start at {options.host}:{options.port} ({error}); choose another "
            "--port or --host, or see `gammaray doctor`"
        ) from error


def _deploy(source: Source, options: ServeOptions, settings: AppSettings) -> None:
    model = serve.deployment(
        name=MODEL,
        num_replicas=options.replicas,
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        # The next batch waits at the replica; what is beyond it goes to whoever is free first.
        max_ongoing_requests=2 * options.max_batch,
        max_constructor_retry_count=1,  # a model that does not load once never does
        graceful_shutdown_timeout_s=_GOODBYE_S,
        graceful_shutdown_wait_loop_s=_LOOK_S,
    )(ModelReplica)
    gateway = serve.deployment(
        name="gateway",
        ray_actor_options={"num_cpus": 0},
        # Refusing is the gateway's own work, in the words that clients know.
        max_ongoing_requests=options.max_open + 1000,
        graceful_shutdown_timeout_s=_GOODBYE_S,
        graceful_shutdown_wait_loop_s=_LOOK_S,
    )(Gateway)
    application = gateway.bind(model.bind(source, options), settings)
    try:
        serve.run(application, name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        raise ServingError(f"the model could not be loaded: {_reason(error)}") from error


def _reason(error: RuntimeError) -> str:
    """What a replica failed with: the last line of the traceback that its status holds."""
    application = serve.status().applications.get(APPLICATION)
    deployments = application.deployments if application else {}
    told = deployments[MODEL].message if MODEL in deployments else ""
    return (told.strip() or str(error).strip()).splitlines()[-1]


def _check_room(options: ServeOptions) -> None:
    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    wanted = {"CPU": options.replicas * options.cpus, "GPU": options.replicas * options.gpus}
    for name, amount in wanted.items():
        if amount > there.get(name, 0):
            raise ServingError(
                f"{options.replicas} replica(s) want {amount:g} {name}s, the cluster has "
                f"{there.get(name, 0):g}; lower --replicas, --cpus or --gpus"
            )


def _check_free() -> None:
    there = serve.status()
    if there.proxies or there.applications:
        what = ", ".join(sorted(there.applications)) or "nothing"
        raise ServingError(
            f"Ray Serve runs on this cluster already and serves {what}; end it with `serve "
            "shutdown`, or serve on another cluster"
        )
