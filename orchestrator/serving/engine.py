"""Engine: a loaded model that answers batches of questions; a bad one spoils no other."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError

from orchestrator.serving.batcher import Job
from orchestrator.serving.exchange import EncodedImage
from workloads.data import Batch, Sample
from workloads.data.images import decode_image
from workloads.errors import DataError, WorkloadError
from workloads.generation import Generator, Sampling
from workloads.model_folder import open_model_folder

MAX_PIXELS = 1 << 26
"""Of one image: a small file can hold more than memory does."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Pillow has decoders of others that start programs, which is nothing for files of strangers."""


class Engine:
    """A model folder in memory.

    Args:
        folder: Dense or converted.
        device: Such as ``cpu`` or ``cuda``.
    """

    def __init__(self, folder: Path, device: str) -> None:
        model, processor = open_model_folder(folder)
        self._generator = Generator(model.to(torch.device(device)), processor)  # type: ignore[arg-type]

    def answer(self, jobs: Sequence[Job]) -> None:
        """Answer the jobs together, and tell each of them."""
        readable = [_Question(job) for job in jobs]
        readable = [question for question in readable if question.passes(question.read)]
        try:
            batch = self._encode(readable)
        except DataError:
            # One of these cannot be shown to the model: which one is found out one at a time.
            readable = [
                question
                for question in readable
                if question.passes(lambda question=question: self._encode([question]))  # type: ignore[misc]
            ]
            batch = self._encode(readable)
        if batch is not None:
            self._generate(batch, readable)

    def _encode(self, questions: Sequence["_Question"]) -> Batch | None:
        samples = [question.sample for question in questions if question.sample is not None]
        return self._generator.encode(samples) if samples else None

    def _generate(self, batch: Batch, questions: Sequence["_Question"]) -> None:
        jobs = [question.job for question in questions]
        for job in jobs:
            job.started(len(jobs))
        self._generator.generate(batch, [Sampling(**job.ask.sampling) for job in jobs], jobs)


class _Question:
    """A job, and the sample that it becomes."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.sample: Sample | None = None

    def passes(self, check: Callable[[], object]) -> bool:
        """Whether a check finds nothing wrong; if it does, the client is told."""
        try:
            check()
        except WorkloadError as error:
            self.job.failed(error)
            return False
        return True

    def read(self) -> None:
        """Decode the images and check the parameters."""
        ask = self.job.ask
        Sampling(**ask.sampling)
        self.sample = Sample("the request", tuple(map(_decoded, ask.images)), ask.turns, {})


def _decoded(image: EncodedImage) -> Image.Image:
    try:
        _check_size(image.content)
        return decode_image(image.content).convert("RGB")
    except UnidentifiedImageError as error:
        raise _unreadable(image, f"it is none of {', '.join(FORMATS)}") from error
    except (ValueError, OSError, Image.DecompressionBombError) as error:
        raise _unreadable(image, str(error)) from error


def _check_size(content: bytes) -> None:
    with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
        width, height = opened.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"it has {width} x {height} pixels, more than {MAX_PIXELS} in all")


def _unreadable(image: EncodedImage, reason: str) -> DataError:
    return DataError(image.field, "", f"the image cannot be read: {reason}")
