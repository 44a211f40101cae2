"""Batches: what training, evaluation and analysis read from a shard."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from workloads.data.collate import Batch
from workloads.data.encode import Encoder
from workloads.data.order import batch_indices
from workloads.data.shards import Sample


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """Questions to answer, with what only the judge may see."""

    inputs: Batch
    """Left-padded model inputs, ``token_kinds`` included."""
    answers: tuple[str, ...]
    ids: tuple[str, ...]
    tags: tuple[Mapping[str, str], ...]


class TrainingBatches:
    """One rank's micro-batches of every optimizer step.

    A step's global batch depends on the seed and the step alone; ranks take equal consecutive
    parts of it. While a step is being computed the next one is prepared in a thread.

    Args:
        shard: Where samples come from.
        encoder: Makes model inputs of them.
        global_batch: Samples per optimizer step over all ranks.
        micro_batch: Samples per forward pass of one rank.
        seed: Seed of the order.
        rank: Which part is wanted.
        world_size: How many parts there are.

    Raises:
        ValueError: If ``global_batch`` is no multiple of ``micro_batch * world_size``, or
            ``rank`` is out of range.
    """

    def __init__(
        self,
        shard: Sequence[Sample],
        encoder: Encoder,
        *,
        global_batch: int,
        micro_batch: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if micro_batch < 1 or global_batch < 1 or global_batch % (micro_batch * world_size):
            raise ValueError(
                f"global_batch must be a multiple of micro_batch * world_size = {micro_batch} * "
                f"{world_size}, got {global_batch}"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, {world_size}), got {rank}")
        self._shard, self._encoder, self._seed = shard, encoder, seed
        self._global_batch, self._micro_batch = global_batch, micro_batch
        self._share = slice(
            rank * global_batch // world_size, (rank + 1) * global_batch // world_size
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._next: tuple[int, Future[list[Batch]]] | None = None

    def at(self, step: int) -> list[Batch]:
        """The micro-batches of optimizer step ``step`` (from 0), right-padded, with labels.

        Raises:
            DataError: If a sample cannot be encoded.
        """
        ready = self._next
        batches = ready[1].result() if ready and ready[0] == step else self._build(step)
        self._next = step + 1, self._thread.submit(self._build, step + 1)
        return batches

    def sample_ids(self, step: int) -> list[str]:
        """Ids of the samples of the whole global batch of ``step`` (from 0), over all ranks."""
        return [self._shard[index].id for index in self._indices(step)]

    def _indices(self, step: int) -> list[int]:
        return batch_indices(len(self._shard), self._global_batch, seed=self._seed, step=step)

    def _build(self, step: int) -> list[Batch]:
        return [
            self._encoder.training_batch([self._shard[index] for index in chunk])
            for chunk in _chunks(self._indices(step)[self._share], self._micro_batch)
        ]


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
