import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import pytest

from orchestrator.serving.batcher import Batcher, GenerationFailedError, Job
from orchestrator.serving.exchange import Ask, Ended, Event, Piece, Started
from workloads.errors import DataError
from workloads.generation import Completion


def ask(text: str) -> Ask:
    return Ask((), (), {"said": text})


def completion(text: str) -> Completion:
    return Completion(text=text, reason="stop", prompt_tokens=1, completion_tokens=2, skip=None)


class Echo:
    """Answers a batch with what each question says, once it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.may_go = threading.Event()
        self.may_go.set()

    def answer(self, jobs: Sequence[Job]) -> None:
        self.batches.append([job.ask.sampling["said"] for job in jobs])
        for job in jobs:
            job.started(len(jobs))
        assert self.may_go.wait(10)
        for job in jobs:
            if job.wants_more():
                job.text(job.ask.sampling["said"])
                job.finished(completion(job.ask.sampling["said"]))


async def collected(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


def test_questions_that_come_together_are_answered_together() -> None:
    echo = Echo()

    async def test() -> None:
        batcher = Batcher(echo.answer, max_batch=3, wait_s=5.0)
        answers = await asyncio.gather(*(collected(batcher.submit(ask(t))) for t in "abc"))
        for text, events in zip("abc", answers, strict=True):
            assert events == [Started(3), Piece(text), Ended("stop", 1, 2, None)]

    run(test)
    assert echo.batches == [["a", "b", "c"]]


def test_the_first_question_does_not_wait_for_ever() -> None:
    echo = Echo()

    async def test() -> None:
        batcher = Batcher(echo.answer, max_batch=3, wait_s=0.0)
        assert (await collected(batcher.submit(ask("a"))))[0] == Started(1)

    run(test)


def test_those_that_came_meanwhile_are_the_next_batch() -> None:
    echo = Echo()
    echo.may_go.clear()

    async def test() -> None:
        batcher = Batcher(echo.answer, max_batch=2, wait_s=0.0)
        first = batcher.submit(ask("a"))
        assert await anext(first) == Started(1)
        later = [asyncio.create_task(collected(batcher.submit(ask(text)))) for text in "bcd"]
        await asyncio.sleep(0)
        echo.may_go.set()
        await collected(first)
        await asyncio.gather(*later)

    run(test)
    assert echo.batches == [["a"], ["b", "c"], ["d"]]


def test_a_client_that_leaves_takes_no_other_along() -> None:
    echo = Echo()
    echo.may_go.clear()

    async def test() -> None:
        batcher = Batcher(echo.answer, max_batch=2, wait_s=5.0)
        gone, stays = batcher.submit(ask("a")), batcher.submit(ask("b"))
        assert await asyncio.gather(anext(gone), anext(stays)) == [Started(2), Started(2)]
        await gone.aclose()  # type: ignore[attr-defined]
        echo.may_go.set()
        assert await collected(stays) == [Piece("b"), Ended("stop", 1, 2, None)]

    run(test)


def test_a_question_whose_client_left_before_its_batch_is_not_answered() -> None:
    echo = Echo()
    echo.may_go.clear()

    async def test() -> None:
        batcher = Batcher(echo.answer, max_batch=1, wait_s=0.0)
        first = batcher.submit(ask("a"))
        await anext(first)
        waiting = asyncio.create_task(collected(batcher.submit(ask("b"))))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        echo.may_go.set()
        await collected(first)
        await collected(batcher.submit(ask("c")))

    run(test)
    assert echo.batches == [["a"], ["c"]]


@pytest.mark.parametrize(
    ("error", "told", "message"),
    [
        (DataError("messages.0", "", "bad"), DataError, "messages.0: bad"),
        (ValueError("NaN in layer 3"), GenerationFailedError, "ValueError: NaN in layer 3"),
    ],
)
def test_a_failed_batch_is_told_to_its_clients_and_the_next_one_is_answered(
    error: Exception, told: type[Exception], message: str
) -> None:
    echo, errors = Echo(), [error]

    def answer(jobs: Sequence[Job]) -> None:
        if errors:
            raise errors.pop()
        echo.answer(jobs)

    async def test() -> None:
        batcher = Batcher(answer, max_batch=1, wait_s=0.0)
        with pytest.raises(told, match=message):
            await collected(batcher.submit(ask("a")))
        assert len(await collected(batcher.submit(ask("b")))) == 3

    run(test)
