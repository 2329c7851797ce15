"""Equal pieces of work in several processes that share nothing: rows of a comparison, say."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.connection import wait
from typing import Any, TypeVar

P = TypeVar("P")
R = TypeVar("R")
S = TypeVar("S")


def results(
    parts: Sequence[P], begin: Callable[[], S], work: Callable[[S, P], R], *, jobs: int = 1
) -> Iterator[R]:
    """Do the work for each part, and give what came out as soon as it has.

    Args:
        parts: what is to be done; of one job in this order.
        begin: called once in each process, gives what its parts share.
        work: called with that and a part. With several jobs, `begin`, `work`, parts and results are pickled,
            so the first two are functions of a module, perhaps with arguments by `functools.partial`.
        jobs: processes; of several each has one thread of torch, and all end when this one does. 1: the work
            is done here.

    Raises:
        Exception: whatever the work raised first.
    """
    if jobs == 1 or len(parts) < 2:
        shared = begin()
        yield from (work(shared, part) for part in parts)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(parts)), context, _begin, (begin,)) as pool:
        futures = [pool.submit(_work, work, part) for part in parts]
        try:
            yield from (future.result() for future in as_completed(futures))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_SHARED: list[Any] = []
"""In a process of `results`: what its parts share."""


def _begin(begin: Callable[[], Any]) -> None:
    import torch

    parent = multiprocessing.parent_process()
    if parent is not None:
        end_with(parent.sentinel)
    torch.set_num_threads(1)
    _SHARED.append(begin())


def _work(work: Callable[[Any, P], R], part: P) -> R:
    return work(_SHARED[0], part)


def end_with(sentinel: int, end: Callable[[int], object] = os._exit) -> None:
    """Let this process end as soon as another one has, in the middle of its work too: nobody waits for it.

    Args:
        sentinel: of the other process (`multiprocessing.Process.sentinel`).
        end: what is called then, in a thread, with the code 1.
    """

    def watch() -> None:
        wait([sentinel])
        end(1)

    threading.Thread(target=watch, daemon=True).start()
