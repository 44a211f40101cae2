"""The ARank profile: what the ranks of many samples say about each layer."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from workloads.arank.capture import arank_samples
from workloads.arank.errors import ARankError
from workloads.arank.order import spearman
from workloads.arank.rank import RankOptions
from workloads.reporting import Reporter, SilentReporter

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ARankProfile:
    """Ranks of every sample, layer and head, and their statistics.

    Only integers are stored, so profiles made by any number of workers are equal to the last
    bit once the samples are in the same order. The ARank of a layer (``mean``) is the paper's
    ``(1 / heads) * sum_h rank(A_h)``, averaged over samples (arXiv 2410.13859, section 3.2).
    """

    ranks: Integers
    """``(samples, layers, heads)``."""
    tasks: tuple[str, ...]
    """The task of each sample, such as its kind of question."""
    lengths: tuple[int, ...]
    """Real tokens of each sample."""
    options: RankOptions

    def __post_init__(self) -> None:
        if self.ranks.ndim != 3 or 0 in self.ranks.shape:
            shape = self.ranks.shape
            raise ARankError(f"ranks must be (samples, layers, heads), none of them 0; got {shape}")
        for name, values in (("tasks", self.tasks), ("lengths", self.lengths)):
            if len(values) != self.samples:
                raise ARankError(f"{name} must name {self.samples} samples, got {len(values)}")

    @classmethod
    def from_ranks(
        cls,
        ranks: npt.ArrayLike,
        tasks: Sequence[str],
        lengths: Sequence[int] | None = None,
        options: RankOptions | None = None,
    ) -> "ARankProfile":
        """Build a profile from integers, in sample order.

        Args:
            ranks: Array or tensor ``(samples, layers, heads)``.
            tasks: One name per sample.
            lengths: Real tokens per sample; 0, for unknown, by default.
            options: What was counted as rank.

        Raises:
            ARankError: If the shapes do not agree or a value is no integer.
        """
        array = np.asarray(ranks)
        if not np.issubdtype(array.dtype, np.integer):
            raise ARankError(f"ranks must be integers, got {array.dtype}")
        known = tuple(lengths) if lengths is not None else (0,) * len(array)
        return cls(array.astype(np.int64), tuple(tasks), known, options or RankOptions())

    @property
    def samples(self) -> int:
        """How many samples were measured."""
        return int(self.ranks.shape[0])

    @property
    def layers(self) -> int:
        """How many decoder layers the model has."""
        return int(self.ranks.shape[1])

    @property
    def mean(self) -> Floats:
        """ARank of every layer ``(layers,)``: the mean over samples and heads."""
        return _mean(self.ranks)

    @property
    def stderr(self) -> Floats:
        """Standard error of ``mean`` over samples ``(layers,)``; NaN for a single sample."""
        if self.samples == 1:
            return np.full(self.layers, np.nan)
        per_sample = self.ranks.mean(axis=2)
        spread: Floats = per_sample.std(axis=0, ddof=1) / np.sqrt(self.samples)
        return spread

    @property
    def per_head(self) -> Floats:
        """Mean rank of every head ``(layers, heads)``."""
        means: Floats = self.ranks.sum(axis=0) / self.samples
        return means

    @property
    def per_task(self) -> dict[str, Floats]:
        """ARank ``(layers,)`` by task, in alphabetical order."""
        names = np.asarray(self.tasks)
        return {task: _mean(self.ranks[names == task]) for task in sorted(set(self.tasks))}

    @property
    def mean_length(self) -> float:
        """Mean number of real tokens of a sample; 0 if the lengths are unknown."""
        return sum(self.lengths) / self.samples

    @property
    def stability(self) -> dict[int, float | None]:
        """Spearman correlation of the layer order after n samples with the final order.

        For n = 1, 2, 4, ... below the number of samples (paper, figure 3, right); None where
        an order has no variation to correlate.
        """
        counts = [2**power for power in range((self.samples - 1).bit_length())]
        return {count: spearman(self.first(count).mean, self.mean) for count in counts}

    @property
    def task_agreement(self) -> dict[str, float | None]:
        """Spearman correlation of each task's layer order with that of the other tasks' samples.

        Empty if there is one task only (paper, figure 3, left).
        """
        names = np.asarray(self.tasks)
        if len(set(self.tasks)) == 1:
            return {}
        return {
            task: spearman(means, _mean(self.ranks[names != task]))
            for task, means in self.per_task.items()
        }

    @property
    def task_correlations(self) -> dict[str, dict[str, float | None]]:
        """Spearman correlation of the layer orders of every two tasks, by their names.

        Empty if there is one task only (paper, figure 3, left).
        """
        means = self.per_task
        if len(means) == 1:
            return {}
        return {
            task: {other: spearman(order, means[other]) for other in means if other != task}
            for task, order in means.items()
        }

    def first(self, count: int) -> "ARankProfile":
        """The profile of the first ``count`` samples."""
        return ARankProfile(
            self.ranks[:count], self.tasks[:count], self.lengths[:count], self.options
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the integers and of what they mean; a converted model remembers it."""
        head = {
            "shape": self.ranks.shape,
            "tasks": self.tasks,
            "lengths": self.lengths,
            "options": self.options.to_json(),
        }
        text = json.dumps(head, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(
            text.encode() + b"\n" + self.ranks.astype("<i8").tobytes()
        ).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The statistics as plain values, without the ranks themselves."""
        return {
            "digest": self.digest,
            "samples": self.samples,
            "layers": self.layers,
            "heads": int(self.ranks.shape[2]),
            "mean_length": self.mean_length,
            "options": self.options.to_json(),
            "mean": self.mean.tolist(),
            "stderr": None if self.samples == 1 else self.stderr.tolist(),
            "per_head": self.per_head.tolist(),
            "per_task": {task: means.tolist() for task, means in self.per_task.items()},
            "stability": {str(count): value for count, value in self.stability.items()},
            "task_agreement": self.task_agreement,
            "task_correlations": self.task_correlations,
        }


def arank_profile(
    model: PreTrainedModel,
    batches: Iterable[Mapping[str, Any]],
    *,
    options: RankOptions | None = None,
    tasks: Sequence[str] | None = None,
    reporter: Reporter | None = None,
) -> ARankProfile:
    """Measure a model over batches of real samples, in this process.

    Args:
        model: A dense causal language model or image-text model.
        batches: Inputs as for `arank_samples`, in sample order.
        options: What counts as rank.
        tasks: One name per sample over all batches; one common task by default.
        reporter: Told after every batch how many samples are done, of how many if ``batches``
            has a length.

    Raises:
        ARankError: If there is no batch, or a sample cannot be measured.
    """
    reporter = reporter or SilentReporter()
    total = len(batches) if isinstance(batches, Sized) else 0
    ranks: list[Integers] = []
    lengths: list[int] = []
    for done, batch in enumerate(batches, start=1):
        ranks.append(arank_samples(model, batch, options).numpy())
        lengths.extend(real_lengths(batch))
        reporter.progress(done, max(total, done), "batches", note=f"{len(lengths)} samples")
    if not ranks:
        raise ARankError("there are no samples to measure; give at least one batch")
    names = tuple(tasks) if tasks is not None else ("all",) * len(lengths)
    return ARankProfile.from_ranks(np.concatenate(ranks), names, lengths, options)


def real_lengths(batch: Mapping[str, Any]) -> list[int]:
    """Real tokens of each row of a batch."""
    if "attention_mask" in batch:
        return [int(count) for count in batch["attention_mask"].sum(dim=1)]
    rows, seq = batch["input_ids"].shape
    return [int(seq)] * int(rows)


def _mean(ranks: Integers) -> Floats:
    """Mean over samples and heads, from one exact integer sum per layer."""
    total: Integers = ranks.sum(axis=(0, 2))
    means: Floats = total / (ranks.shape[0] * ranks.shape[2])
    return means
