"""Stage ``arank``: attention ranks of real samples, measured by several Ray workers."""

import json
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from ray.exceptions import RayActorError, RayTaskError

from orchestrator.durable import StepContext
from workloads.arank import (
    ARankError,
    ARankProfile,
    RankOptions,
    heat_map_svg,
    write_profile,
)
from workloads.data import open_shard

_TASK_TAG = "kind"


def arank(context: StepContext) -> None:
    """Write ``ranks.parquet``, ``arank.json`` and ``arank.svg``.

    The samples are drawn by seed, and their ranks, which are integers, are merged in the order
    of the draw: any number of workers gives the same bytes. A lost worker is replaced, and
    only the sample it was at is measured again.

    Params: ``samples``, ``seed``; optionally ``options`` (`RankOptions`). Settings: ``workers``,
    and per worker ``cpus`` and ``gpus``; ``max_failures``, how many lost workers are replaced.

    Raises:
        ARankError: If more samples are asked for than there are, or one cannot be measured.
    """
    params: Mapping[str, Any] = context.params
    options = RankOptions.from_json(params.get("options", {}))
    order = _draw(context)
    crew = _Crew(context, options)
    measured = dict(crew.measure(order))
    samples = [measured[index] for index in order]
    profile = ARankProfile.from_ranks(
        np.stack([sample.ranks for sample in samples]),
        [sample.task for sample in samples],
        [sample.tokens for sample in samples],
        options,
    )
    _write(context, profile, [sample.id for sample in samples])


def _draw(context: StepContext) -> list[int]:
    """Indices of the samples to measure; asking for more keeps those drawn before."""
    path = context.inputs["data"].path / "train.arrow"
    params: Mapping[str, Any] = context.params
    available, wanted = len(open_shard(path)), params["samples"]
    if not 1 <= wanted <= available:
        raise ARankError(f"samples must be in [1, {available}], the size of {path}; got {wanted}")
    order = list(range(available))
    random.Random(params["seed"]).shuffle(order)
    return order[:wanted]


def _write(context: StepContext, profile: ARankProfile, ids: Sequence[str]) -> None:
    write_profile(profile, ids, context.output)
    summary = {"profile": profile.to_json()}
    (context.output / "arank.json").write_text(json.dumps(summary, indent=1, allow_nan=False))
    (context.output / "arank.svg").write_text(heat_map_svg(profile, ()))


@dataclass(frozen=True, slots=True)
class _Measured:
    """What one sample gave."""

    id: str
    task: str
    tokens: int
    ranks: npt.NDArray[np.int64]
    """``(layers, heads)``."""


class _Crew:
    """The workers of one measurement."""

    def __init__(self, context: StepContext, options: RankOptions) -> None:
        settings: Mapping[str, Any] = context.settings
        self._reporter = context.reporter
        self._workers = settings["workers"]
        self._needs = {"CPU": settings.get("cpus", 1), "GPU": settings.get("gpus", 0)}
        self._replacements = settings.get("max_failures", 3)
        self._arguments = (
            context.inputs["model"].path / "model",
            context.inputs["data"].path / "train.arrow",
            options,
            self._needs,
        )

    def measure(self, order: Sequence[int]) -> Iterator[tuple[int, _Measured]]:
        """Yield every sample's index and ranks, in whatever order they are finished."""
        waiting, done = deque(order), 0
        running: dict[ray.ObjectRef[Any], tuple[Any, int]] = {}
        actors = [self._hire() for _ in range(min(self._workers, len(order)))]
        try:
            for actor in actors:
                self._assign(actor, waiting, running)
            while running:
                finished = ray.wait(list(running), num_returns=1)[0][0]
                actor, index = running.pop(finished)
                try:
                    measured = ray.get(finished)
                except RayActorError as error:
                    actors.remove(actor)
                    waiting.appendleft(index)
                    actor = self._replace(index, error)
                    actors.append(actor)
                except RayTaskError as error:
                    raise error.cause from None
                else:
                    done += 1
                    self._reporter.progress(done, len(order), "samples", f"{self._workers} workers")
                    yield index, measured
                self._assign(actor, waiting, running)
        finally:
            for actor in actors:
                ray.kill(actor)

    def _hire(self) -> Any:  # noqa: ANN401 - Ray's handles have no static type
        remote = ray.remote(RankWorker).options(
            num_cpus=self._needs["CPU"], num_gpus=self._needs["GPU"]
        )
        return remote.remote(*self._arguments)

    def _replace(self, index: int, error: RayActorError) -> Any:  # noqa: ANN401 - as above
        if self._replacements == 0:
            raise error
        self._replacements -= 1
        self._reporter.message(f"an ARank worker was lost at sample {index}; it is replaced")
        return self._hire()

    @staticmethod
    def _assign(
        actor: Any,  # noqa: ANN401 - as above
        waiting: deque[int],
        running: dict["ray.ObjectRef[Any]", tuple[Any, int]],
    ) -> None:
        if waiting:
            index = waiting.popleft()
            running[actor.measure.remote(index)] = (actor, index)


class RankWorker:
    """One worker: it loads the model when it gets its first sample, and keeps it."""

    def __init__(
        self, model: Path, shard: Path, options: RankOptions, needs: dict[str, float]
    ) -> None:
        self._path, self._shard, self._options = model, open_shard(shard), options
        self._needs = needs

    def measure(self, index: int) -> _Measured:
        """Measure one sample, alone in its batch: others beside it would change its last bits."""
        from workloads.arank import arank_samples, real_lengths

        model, encoder = self._loaded
        sample = self._shard[index]
        batch = encoder.training_batch([sample])
        on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
        return _Measured(
            id=sample.id,
            task=sample.tags.get(_TASK_TAG, "all"),
            tokens=real_lengths(batch)[0],
            ranks=arank_samples(model, on_device, self._options)[0].numpy(),
        )

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch

        from workloads.data import Encoder
        from workloads.models import load_model

        # Threads split a sum differently, so their number must not depend on that of workers.
        torch.set_num_threads(max(1, int(self._needs["CPU"])))
        model, processor = load_model(self._path)
        device = torch.device("cuda" if self._needs["GPU"] else "cpu")
        return torch.nn.Module.to(model, device), Encoder(processor)
