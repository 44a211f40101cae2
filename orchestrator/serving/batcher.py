"""Batcher: questions that come one by one are answered together."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from orchestrator.serving.exchange import Ask, Ended, Event, Piece, Started
from workloads.errors import WorkloadError
from workloads.generation import Completion


class Job:
    """A question on its way, and the listener of its row; its events go back to the loop.

    Made in the loop that waits for it; all else may be called in any thread.
    """

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.is_wanted = True
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()

    async def next(self) -> Event:
        """The next event, once there is one; raises what went wrong."""
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event

    def wants_more(self) -> bool:
        """Whether the client is still there."""
        return self.is_wanted

    def started(self, batch: int) -> None:
        """Its batch of so many begins."""
        self._tell(Started(batch))

    def text(self, piece: str) -> None:
        """More of the answer."""
        self._tell(Piece(piece))

    def finished(self, completion: Completion) -> None:
        """The answer is complete."""
        self._tell(
            Ended(
                completion.reason,
                completion.prompt_tokens,
                completion.completion_tokens,
                completion.skip,
            )
        )

    def failed(self, error: Exception) -> None:
        """There will be no answer, or no more of it; without effect after its end."""
        self._tell(error)

    def _tell(self, event: Event | Exception) -> None:
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class GenerationFailedError(Exception):
    """A batch failed for a reason that is no client's fault."""


class Batcher:
    """Collects questions and has them answered a batch at a time, in one thread.

    Args:
        answer: Answers a batch, telling each job.
        max_batch: Most questions of one batch.
        wait_s: How long the first one waits for others.
    """

    def __init__(
        self, answer: Callable[[Sequence[Job]], None], *, max_batch: int, wait_s: float
    ) -> None:
        self._answer, self._max_batch, self._wait_s = answer, max_batch, wait_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="generation")
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, ask: Ask) -> AsyncIterator[Event]:
        """The events of one question; closing the iterator ends its row and no other.

        Raises:
            WorkloadError: If the question cannot be answered.
            GenerationFailedError: If its batch failed.
        """
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        job = Job(ask)
        self._jobs.put_nowait(job)
        try:
            event: Event | None = None
            while not isinstance(event, Ended):
                event = await job.next()
                yield event
        finally:
            job.is_wanted = False

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            jobs = [job for job in await self._collect() if job.is_wanted]
            if jobs:
                await loop.run_in_executor(self._thread, self._answer_all, jobs)

    async def _collect(self) -> list[Job]:
        jobs = [await self._jobs.get()]
        try:
            async with asyncio.timeout(self._wait_s):
                while len(jobs) < self._max_batch:
                    jobs.append(await self._jobs.get())
        except TimeoutError:
            # Those that came while a batch was being answered are there, even without a wait.
            while len(jobs) < self._max_batch and not self._jobs.empty():
                jobs.append(self._jobs.get_nowait())
        return jobs

    def _answer_all(self, jobs: Sequence[Job]) -> None:
        try:
            self._answer(jobs)
        except WorkloadError as error:
            _fail(jobs, error)
        except Exception as error:  # noqa: BLE001 - told to every client that waits for it
            _fail(jobs, GenerationFailedError(f"{type(error).__name__}: {error}"))


def _fail(jobs: Sequence[Job], error: Exception) -> None:
    for job in jobs:
        job.failed(error)
