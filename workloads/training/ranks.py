"""The few collectives that training needs, for one process and for a process group."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes that train together; every method must be called by all of them."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """What this process computes on; the process group must reach it."""

    @classmethod
    def current(cls) -> "Ranks":
        """Return the default process group's, or a single process without one."""
        device = _device_of_this_process()
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), device)
        return cls(device=device)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and reports for all."""
        return self.rank == 0

    def sum_(self, values: Tensor) -> Tensor:
        """Add up a tensor over the ranks, in place; every rank gets the same bits."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add up numbers over the ranks, in float64."""
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        return [float(total) for total in self.sum_(totals).tolist()]

    def from_first(self, value: T) -> T:
        """Return what rank 0 passed; the others' value is ignored."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, in rank order."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values


def _device_of_this_process() -> torch.device:
    """Return the accelerator that the launcher assigned, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
