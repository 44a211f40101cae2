"""Attention ranks of many samples by Ray workers: the same integers from any number of them."""

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from ray.exceptions import RayActorError, RayTaskError

from workloads.arank import ARankError, ARankProfile, RankOptions, select_layers, spearman
from workloads.data import open_shard
from workloads.errors import DataError
from workloads.reporting import Reporter

_TASK_TAG = "kind"


@dataclass(frozen=True, kw_only=True, slots=True)
class Workforce:
    """How many workers measure, and what each of them gets."""

    workers: int
    cpus: float = 1.0
    gpus: float = 0.0
    max_failures: int = 3
    """Lost workers that are replaced before the measurement fails."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ARankError(f"workers must be at least 1, got {self.workers}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """A sample that was left out, and why."""

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What one sample gave."""

    id: str
    task: str
    tokens: int
    ranks: npt.NDArray[np.int64]
    """``(layers, heads)``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StopRule:
    """Stop when the chosen layers have not changed for ``unchanged`` samples, in sample order."""

    unchanged: int
    policy: Mapping[str, Any]
    """Arguments of `select_layers`."""


@dataclass(kw_only=True, slots=True)
class Ranking:
    """Samples taken in, in the order of the draw."""

    options: RankOptions
    stop: StopRule | None = None
    measured: list[Measured] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    has_settled: bool = False
    """Whether the stop rule has ended the measurement."""
    _chosen: tuple[int, ...] | None = None
    _unchanged: int = 0
    _totals: list[npt.NDArray[np.int64]] = field(default_factory=list)
    """Sums over heads and the samples up to each one ``(layers,)``."""

    def take(self, sample: Measured | Quarantined) -> None:
        """Take in the next sample of the draw."""
        if isinstance(sample, Quarantined):
            self.quarantined.append(sample)
            return
        self.measured.append(sample)
        total = sample.ranks.sum(axis=1)
        self._totals.append(total + self._totals[-1] if self._totals else total)
        if self.stop is not None:
            chosen = self._choice(self.stop)
            is_same = chosen is not None and chosen == self._chosen
            self._unchanged = self._unchanged + 1 if is_same else 0
            self._chosen = chosen
            self.has_settled = self._unchanged >= self.stop.unchanged

    @property
    def profile(self) -> ARankProfile:
        """What was measured.

        Raises:
            ARankError: If every sample was quarantined.
        """
        if not self.measured:
            first = self.quarantined[0]
            raise ARankError(
                f"none of {len(self.quarantined)} samples could be measured; the first, "
                f"{first.id!r}: {first.reason}"
            )
        return ARankProfile.from_ranks(
            np.stack([sample.ranks for sample in self.measured]),
            [sample.task for sample in self.measured],
            [sample.tokens for sample in self.measured],
            self.options,
        )

    @property
    def ids(self) -> list[str]:
        """Names of the measured samples."""
        return [sample.id for sample in self.measured]

    @property
    def stability(self) -> float | None:
        """Spearman correlation of the layer order after half the samples with that of all."""
        samples = len(self.measured)
        if samples < 2:
            return None
        heads = self.measured[0].ranks.shape[1]
        half, every = (
            self._totals[count - 1] / (count * heads) for count in (samples // 2, samples)
        )
        return spearman(half, every)

    def _choice(self, rule: StopRule) -> tuple[int, ...] | None:
        try:
            return select_layers(self.profile, **rule.policy).layers
        except ARankError:  # for instance a threshold that nothing is below yet
            return None


def rank_samples(
    model: Path,
    shard: Path,
    order: Sequence[int],
    *,
    options: RankOptions,
    workforce: Workforce,
    reporter: Reporter,
    stop: StopRule | None = None,
) -> Ranking:
    """Measure the samples ``order`` of ``shard``; which worker takes which changes nothing.

    A sample that cannot be measured is quarantined. A lost worker is replaced, and only the
    sample it was at is measured again.

    Args:
        model: A dense Hugging Face model folder.
        shard: Where the samples come from.
        order: Indices of the samples, in the order in which they count.
        options: What counts as rank.
        workforce: How many workers, and how large.
        reporter: Told of every sample that is done.
        stop: When to stop before the end of ``order``; by default never.

    Raises:
        ARankError: If no sample could be measured.
        ModelError: If the model cannot be loaded.
        RayActorError: If more workers are lost than may be.
    """
    ranking = Ranking(options=options, stop=stop)
    crew = _Crew((model, shard, options), workforce, reporter)
    finished: dict[int, Measured | Quarantined] = {}
    waiting = deque(order)
    done = 0
    with crew:
        for index, sample in crew.measure(order):
            finished[index] = sample
            done += 1
            while waiting and waiting[0] in finished and not ranking.has_settled:
                ranking.take(finished.pop(waiting.popleft()))
            reporter.progress(done, len(order), "samples", _note(ranking, workforce))
            if ranking.has_settled:
                break
    for bad in ranking.quarantined:
        reporter.message(f"sample {bad.id!r} is left out: {bad.reason}")
    if ranking.has_settled and stop is not None:
        reporter.message(
            f"stopped after {len(ranking.measured)} of {len(order)} samples: the chosen layers "
            f"have not changed for {stop.unchanged}"
        )
    _ = ranking.profile  # raises if there is none
    return ranking


def _note(ranking: Ranking, workforce: Workforce) -> str:
    parts = [f"{workforce.workers} workers"]
    if ranking.stability is not None:
        parts.append(f"layer order of half the samples agrees by {ranking.stability:.2f}")
    if ranking.quarantined:
        parts.append(f"{len(ranking.quarantined)} left out")
    return ", ".join(parts)


class _Crew:
    """The workers of one measurement; they end with the ``with`` block."""

    def __init__(
        self, arguments: tuple[Path, Path, RankOptions], workforce: Workforce, reporter: Reporter
    ) -> None:
        self._arguments, self._workforce, self._reporter = arguments, workforce, reporter
        self._replacements = workforce.max_failures
        self._actors: list[Any] = []

    def __enter__(self) -> "_Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def measure(self, order: Sequence[int]) -> Iterator[tuple[int, Measured | Quarantined]]:
        """Yield every sample's index and result, in whatever order they are finished."""
        waiting = deque(order)
        running: dict[ray.ObjectRef[Any], tuple[Any, int]] = {}
        for _ in range(min(self._workforce.workers, len(order))):
            self._assign(self._hire(), waiting, running)
        while running:
            finished = ray.wait(list(running), num_returns=1)[0][0]
            actor, index = running.pop(finished)
            try:
                sample = ray.get(finished)
            except RayActorError as error:
                self._actors.remove(actor)
                waiting.appendleft(index)
                self._assign(self._replace(index, error), waiting, running)
            except RayTaskError as error:
                raise error.cause from None
            else:
                self._assign(actor, waiting, running)  # before its result is dealt with
                yield index, sample

    def _hire(self) -> Any:  # noqa: ANN401 - Ray's handles have no static type
        force = self._workforce
        remote = ray.remote(RankWorker).options(num_cpus=force.cpus, num_gpus=force.gpus)
        self._actors.append(remote.remote(*self._arguments, force))
        return self._actors[-1]

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
        self, model: Path, shard: Path, options: RankOptions, workforce: Workforce
    ) -> None:
        self._path, self._shard, self._options = model, open_shard(shard), options
        self._workforce = workforce

    def measure(self, index: int) -> Measured | Quarantined:
        """Measure one sample, alone in its batch: others beside it would change its last bits."""
        model, encoder = self._loaded
        try:
            sample = self._shard[index]
        except DataError as error:
            return Quarantined(id=self._shard.ids([index])[0], reason=error.reason)
        try:
            return self._measure(model, encoder, sample)
        except (ARankError, DataError) as error:
            return Quarantined(id=sample.id, reason=str(error))

    def _measure(self, model: Any, encoder: Any, sample: Any) -> Measured:  # noqa: ANN401 - lazy
        from workloads.arank import arank_samples, real_lengths

        batch = encoder.training_batch([sample])
        on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
        return Measured(
            id=sample.id,
            task=sample.tags.get(_TASK_TAG, "all"),
            tokens=real_lengths(batch)[0],
            ranks=arank_samples(model, on_device, self._options)[0].numpy(),
        )

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch

        from workloads.arank import give_back_freed_memory
        from workloads.data import Encoder
        from workloads.models import load_decoder

        give_back_freed_memory()
        # Threads split a sum differently, so their number must not depend on that of workers.
        torch.set_num_threads(max(1, int(self._workforce.cpus)))
        model, processor = load_decoder(self._path)
        device = torch.device("cuda" if self._workforce.gpus else "cpu")
        return torch.nn.Module.to(model, device), Encoder(processor)


def draw_samples(shard: Path, samples: int, seed: int, *, needs_images: bool = True) -> list[int]:
    """Indices of ``samples`` samples drawn by ``seed``; asking for more keeps those drawn before.

    Raises:
        ARankError: If there are fewer; or if none of those drawn has an image, and
            ``needs_images``.
    """
    conversations = open_shard(shard)
    if not 1 <= samples <= len(conversations):
        raise ARankError(
            f"samples must be in [1, {len(conversations)}], the size of {shard}; got {samples}"
        )
    order = list(range(len(conversations)))
    random.Random(seed).shuffle(order)
    if needs_images and not any(_has_image(conversations, index) for index in order[:samples]):
        raise ARankError(
            f"none of the {samples} samples drawn from {shard} has an image; ARank is about "
            "image tokens, so give image-text conversations"
        )
    return order[:samples]


def _has_image(conversations: Any, index: int) -> bool:  # noqa: ANN401 - a shard or like one
    try:
        return bool(conversations[index].images)
    except DataError:
        return False
