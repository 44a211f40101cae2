"""Batches: what training, evaluation and analysis read from a shard."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from workloads.data.collate import Batch
from workloads.data.encode import Encoder
from workloads.data.held_out import Subset
from workloads.data.order import SampleOrder
from workloads.data.shards import Sample, Shard
from workloads.errors import DataError

_MOST_TRIES = 100
"""Samples in a row that cannot be used before it is taken for a fault of the whole dataset."""
_MOST_TOLD = 20


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """Questions to answer, with what only the judge may see."""

    inputs: Batch
    """Left-padded model inputs, ``token_kinds`` included."""
    answers: tuple[str, ...]
    ids: tuple[str, ...]
    tags: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class Replacement:
    """A sample of a global batch that could not be used, and the one that took its place."""

    step: int
    """Optimizer step, counted from 1 as in a training's history."""
    position: int
    """Of the sample in its global batch, from 0."""
    sample: str
    """Id of the sample that stands in the order."""
    by: str
    reason: str

    def __str__(self) -> str:
        return f"step {self.step}: sample {self.sample!r} is replaced by {self.by!r}: {self.reason}"


class TrainingBatches:
    """One rank's micro-batches of every optimizer step.

    A step's global batch depends on the shard, the seed and the step alone; ranks take equal
    parts of it. While a step is being computed the next one is prepared in a thread.

    A sample that cannot be used, because an image of it is missing or damaged or because it
    cannot be encoded, is replaced by the next one of the order that can. So the replacement is
    the same whoever finds it, and whenever.

    Args:
        shard: Where samples come from.
        encoder: Makes model inputs of them.
        global_batch: Samples per optimizer step over all ranks.
        micro_batch: Samples per forward pass of one rank.
        seed: Seed of the order.
        rank: Which part is wanted.
        world_size: How many parts there are.
        group_by_length: Whether a global batch has samples alike, see `group_by_length`. Then
            neighbouring micro-batches go to different ranks, so that ranks compute as long;
            otherwise a rank's part is consecutive.
        tell: Hears of the first samples that this rank replaces; all are in ``replaced``.

    Raises:
        ValueError: If ``global_batch`` is no multiple of ``micro_batch * world_size``, or
            ``rank`` is out of range.
    """

    def __init__(
        self,
        shard: Shard | Subset,
        encoder: Encoder,
        *,
        global_batch: int,
        micro_batch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        group_by_length: bool = False,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        if micro_batch < 1 or global_batch < 1 or global_batch % (micro_batch * world_size):
            raise ValueError(
                f"global_batch must be a multiple of micro_batch * world_size = {micro_batch} * "
                f"{world_size}, got {global_batch}"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, {world_size}), got {rank}")
        self._shard, self._encoder = shard, encoder
        self._rank, self._tell = rank, tell
        lengths = shard.lengths() if group_by_length else None
        self._order = SampleOrder(len(shard), global_batch, seed=seed, lengths=lengths)
        self._global_batch = global_batch
        chunks = list(_chunks(range(global_batch), micro_batch))
        mine = len(chunks) // world_size
        self._chunks = chunks[rank::world_size] if group_by_length else chunks[rank * mine :][:mine]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._next: tuple[int, Future[_Built]] | None = None
        self._replaced: dict[tuple[int, int], Replacement] = {}

    def at(self, step: int) -> list[Batch]:
        """The micro-batches of optimizer step ``step`` (from 0), right-padded, with labels.

        Raises:
            DataError: If a sample cannot be used, nor any of the many that follow it.
        """
        ready = self._next
        batches, replaced = ready[1].result() if ready and ready[0] == step else self._build(step)
        for each in replaced:
            self._note(each)
        self._next = step + 1, self._thread.submit(self._build, step + 1)
        return batches

    def sample_ids(self, step: int) -> list[str]:
        """Ids of the samples of the whole global batch of ``step`` (from 0), over all ranks.

        They are those of the order: which of them were replaced is known to the rank that has
        them.
        """
        return self._shard.ids(self._order.batch(step))

    @property
    def replaced(self) -> list[Replacement]:
        """What this rank has replaced in the steps asked for, or was told of by `load`."""
        return [self._replaced[key] for key in sorted(self._replaced)]

    def save(self, folder: Path) -> None:
        """Keep this rank's replacements in a folder that all ranks write into."""
        if self._replaced:
            listed = [asdict(each) for each in self.replaced]
            (folder / f"replaced-{self._rank:05d}.json").write_text(json.dumps(listed))

    def load(self, folder: Path) -> None:
        """Take over what all ranks kept, however many they were, and forget the rest."""
        files = sorted(folder.glob("replaced-*.json"))
        known = [Replacement(**each) for file in files for each in json.loads(file.read_text())]
        self._replaced = {(each.step, each.position): each for each in known}

    def _note(self, found: Replacement) -> None:
        self._replaced[found.step, found.position] = found
        if self._tell and len(self._replaced) <= _MOST_TOLD:
            self._tell(str(found))

    def _build(self, step: int) -> "_Built":
        replaced: list[Replacement] = []
        return [self._micro_batch(step, chunk, replaced) for chunk in self._chunks], replaced

    def _micro_batch(self, step: int, chunk: Sequence[int], replaced: list[Replacement]) -> Batch:
        first = step * self._global_batch
        indices = [self._order.sample(first + place) for place in chunk]
        try:
            return self._encoder.training_batch([self._shard[index] for index in indices])
        except DataError:
            # Some sample of these; which one is found out by one at a time.
            samples = [self._usable(step, place, replaced) for place in chunk]
            return self._encoder.training_batch(samples)

    def _usable(self, step: int, place: int, replaced: list[Replacement]) -> Sample:
        """The sample of one position of the stream, or the next one that can be encoded."""
        position = step * self._global_batch + place
        tries = min(len(self._shard), _MOST_TRIES)
        fault: DataError | None = None
        for candidate in range(position, position + tries):
            try:
                sample = self._shard[self._order.sample(candidate)]
                self._encoder.training(sample)
            except DataError as error:
                fault = fault or error
                continue
            if fault is not None:
                (own,) = self._shard.ids([self._order.sample(position)])
                found = Replacement(step + 1, place, own, sample.id, fault.reason)
                replaced.append(found)
            return sample
        assert fault is not None
        reason = f"{fault.reason}; none of the {tries - 1} samples after it can be used instead"
        raise DataError(fault.source, fault.location, reason)


_Built = tuple[list[Batch], list[Replacement]]


def prompt_batches(
    shard: Sequence[Sample], encoder: Encoder, *, batch_size: int, limit: int | None = None
) -> Iterator[PromptBatch]:
    """Ask for the last answer of each sample, in order; ``limit`` takes only the first ones.

    Raises:
        DataError: If a sample cannot be encoded.
    """
    for chunk in _chunks(range(len(shard))[:limit], batch_size):
        samples = [shard[index] for index in chunk]
        yield PromptBatch(
            inputs=encoder.prompt_batch(samples),
            answers=tuple(sample.turns[-1].text for sample in samples),
            ids=tuple(sample.id for sample in samples),
            tags=tuple(sample.tags for sample in samples),
        )


def analysis_batches(
    shard: Sequence[Sample],
    encoder: Encoder,
    *,
    samples: int | Sequence[int],
    batch_size: int = 1,
) -> Iterator[Batch]:
    """Show whole conversations, right-padded with ``labels`` and ``token_kinds``.

    Args:
        shard: Where samples come from.
        encoder: Makes model inputs of them.
        samples: How many, taken as ``analysis_indices`` does; or the very indices, such as one
            worker's part of them.
        batch_size: Samples per batch.

    Raises:
        DataError: If a sample cannot be encoded.
    """
    if isinstance(samples, int):
        samples = analysis_indices(len(shard), samples)
    for chunk in _chunks(samples, batch_size):
        yield encoder.training_batch([shard[index] for index in chunk])


def analysis_indices(num_samples: int, wanted: int) -> list[int]:
    """Pick ``wanted`` samples (all, if there are fewer) in a fixed random order.

    Asking for more keeps those picked before, so that growing sample counts can be compared.

    Raises:
        ValueError: If ``wanted`` is not positive.
    """
    if wanted < 1:
        raise ValueError(f"expected at least one sample, got {wanted}")
    # A generator of its own: the choice must not move with the order of training.
    order = np.random.default_rng(num_samples).permutation(num_samples)
    return [int(index) for index in order[:wanted]]


def _chunks(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
