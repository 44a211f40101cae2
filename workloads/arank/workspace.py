"""Memory for large matrices that is taken once and used again."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod

import torch
from torch import Tensor

_M_MMAP_THRESHOLD = -3
_LARGE = 2**20


def give_back_freed_memory() -> None:
    """Have this process return large blocks to the system as soon as they are freed.

    glibc raises the size from which it does so to that of whatever was freed, and then keeps
    the holes between activations. Allocators that have no such setting are left as they are.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


class Workspace:
    """The matrices that ranking one map takes, kept for the next map.

    Taken anew for every map they cost page faults, and the allocator keeps much of what is
    given back.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.dtype, torch.device | None], Tensor] = {}

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | None = None,
    ) -> Tensor:
        """A contiguous tensor of any content; it ends the one that had its name before."""
        size, kind = prod(shape), (name, dtype, device)
        if kind not in self._held or self._held[kind].numel() < size:
            self._held.pop(kind, None)
            self._held[kind] = torch.empty(size, dtype=dtype, device=device)
        return self._held[kind][:size].view(shape)


class Workspaces:
    """As many workspaces as are in use at a time."""

    def __init__(self) -> None:
        self._free: list[Workspace] = []

    @contextmanager
    def one(self) -> Iterator[Workspace]:
        """A workspace that no other thread uses for the time being."""
        try:
            space = self._free.pop()
        except IndexError:
            space = Workspace()
        try:
            yield space
        finally:
            self._free.append(space)
