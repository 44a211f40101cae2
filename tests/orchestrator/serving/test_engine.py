import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from orchestrator.serving import engine as engines
from orchestrator.serving.batcher import Job
from orchestrator.serving.engine import Engine
from orchestrator.serving.exchange import Ask, EncodedImage, Ended, Event, Piece, Started
from tests.orchestrator.registry.conftest import model_folder
from tests.orchestrator.serving.requests import png
from workloads.data import Turn

__all__ = ["model_folder"]

FIELD = "messages.0.content.0.image_url.url"


@pytest.fixture(scope="module")
def engine(model_folder: Path) -> Engine:
    return Engine(model_folder, "cpu")


def ask(question: str = "which ?", image: bytes | None = None, **sampling: Any) -> Ask:
    turns = (Turn("human", f"<image>{question}"), Turn("gpt", ""))
    images = (EncodedImage(FIELD, png() if image is None else image),)
    return Ask(turns, images, {"max_new_tokens": 3} | sampling)


def answers(engine: Engine, *asks: Ask) -> list[list[Event | Exception]]:
    async def collect() -> list[list[Event | Exception]]:
        jobs = [Job(each) for each in asks]
        await asyncio.to_thread(engine.answer, jobs)
        return [await events_of(job) for job in jobs]

    return asyncio.run(collect())


async def events_of(job: Job) -> list[Event | Exception]:
    events: list[Event | Exception] = []
    while not events or not isinstance(events[-1], Ended | Exception):
        try:
            events.append(await asyncio.wait_for(job.next(), 10))
        except Exception as error:  # noqa: BLE001 - what a client is told
            events.append(error)
    return events


def test_a_batch_of_questions_is_answered_as_each_alone(engine: Engine) -> None:
    asks = [ask(), ask("which digit is there ?", png(7), max_new_tokens=5)]
    together = answers(engine, *asks)
    alone = [answers(engine, each)[0] for each in asks]
    assert [events[0] for events in together] == [Started(2)] * 2
    for mine, other in zip(together, alone, strict=True):
        assert mine[1:-1] == other[1:-1]
        assert isinstance(mine[-1], Ended)
        assert mine[-1].skip is not None
    assert [events[-1].completion_tokens for events in together] == [3, 5]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (ask(image=b"no image"), f"{FIELD}: the image cannot be read: it is none of PNG, JPEG"),
        (ask(image=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "it is none of PNG"),
        (ask(image=png()[:60]), f"{FIELD}: the image cannot be read"),
        (ask("x" * 1100), "more than the limit of 1023"),
        (ask(temperature=9.0), "temperature: must be in"),
    ],
)
def test_a_bad_question_is_told_and_spoils_no_other(engine: Engine, bad: Ask, message: str) -> None:
    wrong, right = answers(engine, bad, ask())
    assert len(wrong) == 1
    assert message in str(wrong[0])
    assert right[0] == Started(1)
    assert any(isinstance(event, Piece) for event in right)


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "MAX_PIXELS", 1000)
    (events,) = answers(engine, ask())
    assert "it has 32 x 32 pixels, more than 1000 in all" in str(events[0])


def test_a_picture_with_colours_and_transparency_is_read(engine: Engine) -> None:
    encoded = io.BytesIO()
    Image.new("RGBA", (40, 20), (9, 8, 7, 6)).save(encoded, "WEBP")
    (events,) = answers(engine, ask(image=encoded.getvalue()))
    assert events[0] == Started(1)
