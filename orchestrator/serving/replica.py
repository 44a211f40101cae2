"""ModelReplica: a model in a process of its own, which answers a batch at a time."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import torch

from orchestrator.serving.batcher import Batcher
from orchestrator.serving.engine import Engine
from orchestrator.serving.exchange import Ask, Event
from orchestrator.serving.options import ServeOptions
from orchestrator.serving.source import Source


class ModelReplica:
    """Loads the model when it is made, so that Ray Serve takes it for running only then.

    Args:
        source: The model.
        options: How it batches and what it computes on.
    """

    def __init__(self, source: Source, options: ServeOptions) -> None:
        torch.set_num_threads(max(1, int(options.cpus)))
        with source.opened() as folder:
            engine = Engine(folder, "cuda" if options.gpus else "cpu")
        self._batcher = Batcher(
            engine.answer, max_batch=options.max_batch, wait_s=options.batch_wait_s
        )

    async def answer(self, ask: Ask) -> AsyncIterator[Event]:
        """The events of one question; if the caller goes away, its row ends."""
        async with aclosing(self._batcher.submit(ask)) as events:  # type: ignore[type-var]
            async for event in events:
                yield event
