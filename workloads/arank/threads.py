"""Independent work on all of torch's threads, one item to a thread."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def on_all_threads(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``[function(item) for item in items]`` on ``torch.get_num_threads()`` threads.

    LAPACK hardly gains from a second thread where two matrices on a thread each take half the
    time. Every item is computed by one thread, so results do not depend on their number.

    Raises:
        Exception: Whatever ``function`` raises first, in the order of ``items``.
    """
    threads = torch.get_num_threads()
    work = list(items)
    if threads == 1 or len(work) == 1:
        return [function(item) for item in work]
    with _one_thread_each(threads), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, work))


@contextmanager
def _one_thread_each(threads: int) -> Iterator[None]:
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
