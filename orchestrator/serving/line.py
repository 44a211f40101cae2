"""Line: which requests wait and which are answered, and when there are too many."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing

from orchestrator.serving.errors import ApiError
from orchestrator.serving.exchange import Ask, Ended, Event, Model, Piece, Started
from orchestrator.serving.metrics import Metrics


class Line:
    """Passes questions to a model and measures how it goes.

    Args:
        model: Answers.
        metrics: Told of every request.
        most: Requests that may be open at once, waiting ones included.
    """

    def __init__(self, model: Model, metrics: Metrics, most: int) -> None:
        self._model, self._metrics, self._most = model, metrics, most
        self._open = 0

    async def answer(self, ask: Ask) -> AsyncIterator[Event]:
        """What the model says; closing the iterator cancels the question.

        Raises:
            ApiError: 429 if too many are open.
            WorkloadError: If the prompt cannot be answered.
        """
        if self._open >= self._most:
            raise ApiError(
                429, f"{self._open} requests are open already; try again later", None, "queue_full"
            )
        self._open += 1
        arrived_s = time.monotonic()
        gauge = self._metrics.waiting
        gauge.inc()
        is_first = True
        try:
            async with aclosing(self._model.answer(ask)) as events:  # type: ignore[type-var]
                async for event in events:
                    if isinstance(event, Started):
                        gauge.dec()
                        gauge = self._metrics.running
                        gauge.inc()
                        self._metrics.batch_size.observe(event.batch)
                    elif isinstance(event, Piece) and is_first:
                        is_first = False
                        self._metrics.first_token.observe(time.monotonic() - arrived_s)
                    elif isinstance(event, Ended):
                        self._metrics.ended(event)
                    yield event
        finally:
            gauge.dec()
            self._open -= 1
