"""The gateway: the one process that speaks HTTP, and finds a replica for every question."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, cast

from ray import serve
from ray.exceptions import RayTaskError
from ray.serve.schema import ApplicationStatusOverview

from orchestrator.serving.app import AppSettings, build_app
from orchestrator.serving.exchange import Ask, Ended, Event
from workloads.errors import WorkloadError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

APPLICATION = "gammaray"
MODEL = "model"


@serve.ingress()
class Gateway:
    """Routes of `orchestrator.serving.app` in front of the replicas.

    Args:
        model: Handle of the replicas.
        settings: What the routes need to know.
    """

    def __init__(self, model: "DeploymentHandle[Any]", settings: AppSettings) -> None:
        self._replicas, self._settings = Replicas(model), settings

    def __serve_build_asgi_app__(self) -> "FastAPI":
        return build_app(self._replicas, self._settings)


class Replicas:
    """The model as the routes see it, behind a handle of Ray Serve."""

    def __init__(self, handle: "DeploymentHandle[Any]") -> None:
        self._answers = handle.options(stream=True).answer

    async def answer(self, ask: Ask) -> AsyncIterator[Event]:
        """Events of a replica; closing the iterator cancels the question there."""
        stream = cast("DeploymentResponseGenerator[Event]", self._answers.remote(ask))
        event: Event | None = None
        try:
            async for event in stream:
                yield event
        except RayTaskError as error:
            if isinstance(error.cause, WorkloadError):
                raise error.cause from error
            raise
        finally:
            if not isinstance(event, Ended):
                stream.cancel()  # type: ignore[no-untyped-call]

    async def is_ready(self) -> bool:
        """Whether a replica has loaded the model."""
        found = (await asyncio.to_thread(serve.status)).applications.get(APPLICATION)
        return found is not None and _running(found) > 0


def _running(application: ApplicationStatusOverview) -> int:
    model = application.deployments.get(MODEL)
    states = {} if model is None else model.replica_states
    return sum(count for state, count in states.items() if state == "RUNNING")
