"""Signals of a training on its way: speed, waiting, padding, skips, memory, utilisation.

They are measured, and so no part of the history, which is the same bits in every run.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from workloads.kinds import TokenKind
from workloads.mod import RoutingRecord
from workloads.mod.record import shares_of
from workloads.training.flops import StepFlops
from workloads.training.ranks import Ranks


class Meter:
    """Counts between two reports; every rank has one and all read it together.

    Args:
        ranks: Who trains together.
        flops: Prices the tokens; None where the device's peak is not known.
        clock: Seconds on a monotonic clock.
    """

    def __init__(
        self,
        ranks: Ranks,
        flops: StepFlops | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._ranks, self._flops, self._clock = ranks, flops, clock
        self.restart()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What lasts as long as this is waiting for data."""
        started = self._clock()
        yield
        self._waited += self._clock() - started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What lasts as long as this is no part of the training's speed."""
        started = self._clock()
        yield
        self._started += self._clock() - started

    def saw(self, batch: Mapping[str, Tensor], record: RoutingRecord | None) -> None:
        """Count a micro-batch that lies on the host, and keep what was recorded of it."""
        # A mask counts like kinds without images.
        kinds = batch["token_kinds" if "token_kinds" in batch else "attention_mask"]
        self._counts += torch.tensor(
            [
                kinds.shape[0],
                kinds.numel(),
                int((kinds != TokenKind.PAD).sum()),
                int((kinds == TokenKind.IMAGE).sum()),
            ],
            dtype=torch.float64,
        )
        if record is not None:
            self._records.append(record)

    def read(self) -> dict[str, float]:
        """Combine over ranks and start again.

        Returns:
            ``samples_per_s`` and ``tokens_per_s`` over all ranks, padding not counted;
            ``loader_wait`` and ``padding``, shares in [0, 1] of the time and of the positions;
            ``memory_bytes``, the largest of any rank's peaks: of the device, or of the process on
            a CPU; ``skip/LAYER/KIND``, skipped shares; ``mfu``, model FLOPs utilisation in [0, 1],
            where the device's peak is known.
        """
        seconds = self._clock() - self._started
        peak = peak_memory(self._ranks.device)
        mine = (self._counts.tolist(), self._waited, peak, _routed(self._records))
        everyones = self._ranks.gather(mine)
        counts = zip(*(each[0] for each in everyones), strict=True)
        samples, positions, tokens, images = (sum(count) for count in counts)
        signals = {
            "samples_per_s": samples / seconds,
            "tokens_per_s": tokens / seconds,
            "loader_wait": sum(each[1] for each in everyones) / len(everyones) / seconds,
            "padding": 1.0 - tokens / positions if positions else 0.0,
            "memory_bytes": float(max(each[2] for each in everyones)),
        }
        shares = _shares([each[3] for each in everyones])
        if self._flops is not None:
            done = self._flops.of(tokens, images, shares)
            signals["mfu"] = done / seconds / self._flops.peak_per_s / self._ranks.size
        self.restart()
        return signals | {f"skip/{name}": share for name, share in shares.items()}

    def restart(self) -> None:
        """Forget what was counted; the time starts now."""
        self._started, self._waited = self._clock(), 0.0
        self._counts = torch.zeros(4, dtype=torch.float64)
        self._records: list[RoutingRecord] = []


def _routed(records: Sequence[RoutingRecord]) -> dict[int, list[list[float]]]:
    """Tokens and skipped ones of each converted layer, as `shares_of` takes them."""
    seen = [record for record in records if record.layers]
    if not seen:
        return {}
    total = torch.stack([record.counts() for record in seen]).sum(0).tolist()
    return dict(zip(seen[0].layers, total, strict=True))


def _shares(ranks: Sequence[Mapping[int, list[list[float]]]]) -> dict[str, float]:
    """Skipped shares of the tokens of all ranks, by ``LAYER/KIND``."""
    named: dict[str, float] = {}
    for layer in sorted({layer for each in ranks for layer in each}):
        counts = torch.tensor([each[layer] for each in ranks if layer in each]).sum(0)
        shares = shares_of(*counts.tolist())
        named |= {f"{layer}/{kind}": share for kind, share in shares.items()}
    return named


def peak_memory(device: torch.device) -> int:
    """Bytes at the most: allocated on a device, or resident in this process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # What getrusage says starts at the peak of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
