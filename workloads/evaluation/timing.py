"""Time of a converted model against its dense twin, measured side by side.

Absolute times of two runs on one machine differ by up to a third; ratios of neighbouring
measurements in one process hold to one or two per cent. So the twins alternate, and the
median of the pairwise ratios is the result.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from workloads.evaluation.errors import EvaluationError
from workloads.generation import model_inputs

Run = Callable[[PreTrainedModel], object]
"""The work to time, done once with the model it is given."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Times of the two twins, pair by pair."""

    dense_s: tuple[float, ...]
    mod_s: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """MoD time over dense time of each pair."""
        return tuple(mod / dense for dense, mod in zip(self.dense_s, self.mod_s, strict=True))

    @property
    def median_ratio(self) -> float:
        """Median of ``ratios``; below 1 where the converted model is faster."""
        return statistics.median(self.ratios)

    def to_json(self) -> dict[str, Any]:
        """The median ratio with all it was computed from, times in seconds."""
        return {
            "median_ratio": self.median_ratio,
            "ratios": list(self.ratios),
            "seconds": {"dense": list(self.dense_s), "mod": list(self.mod_s)},
        }


def side_by_side(
    dense: PreTrainedModel,
    mod: PreTrainedModel,
    run: Run,
    *,
    warmups: int = 2,
    repeats: int = 9,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Time the same work on both twins, alternating in this process.

    Args:
        dense: The dense model.
        mod: The converted model.
        run: The work, such as `prefill` or `training_step` of a batch.
        warmups: Untimed runs of each first.
        repeats: Timed pairs; an odd number has a median that was measured.
        clock: Seconds.

    Raises:
        EvaluationError: If ``repeats`` is below 1 or ``warmups`` below 0.
    """
    if repeats < 1 or warmups < 0:
        raise EvaluationError(f"timing needs repeats >= 1, warmups >= 0; got {repeats}, {warmups}")
    for _ in range(warmups):
        run(dense)
        run(mod)
    pairs = [(_seconds(dense, run, clock), _seconds(mod, run, clock)) for _ in range(repeats)]
    dense_s, mod_s = zip(*pairs, strict=True)
    return Comparison(dense_s, mod_s)


def prefill(batch: Mapping[str, Tensor]) -> Run:
    """Work for `side_by_side`: one forward pass over a batch of prompts that fills the cache."""

    def run(model: PreTrainedModel) -> None:
        model.eval()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            model(**model_inputs(model, batch), use_cache=True)

    return run


def training_step(batch: Mapping[str, Tensor]) -> Run:
    """Work for `side_by_side`: forward and backward of a batch with labels.

    The optimizer is left out: it costs both twins the same, and no weight may change here.
    """

    def run(model: PreTrainedModel) -> None:
        model.train()
        model(**model_inputs(model, batch), use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)

    return run


def _seconds(model: PreTrainedModel, run: Run, clock: Callable[[], float]) -> float:
    _wait(model.device)
    start = clock()
    run(model)
    _wait(model.device)
    return clock() - start


def _wait(device: torch.device) -> None:
    """A GPU returns before it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
