"""Mini-batches side by side: Python's threads take one each, in place of torch's threads that share one.

Most operations of the choice are small. Shared out one by one, threads wait for each other longer than they
compute, above all where other programs need the cores as well; a mini-batch at a time they rarely meet. What
comes out does not depend on how many there are, as long as each computes on one thread of torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

import torch
from torch import Tensor, nn

from prunelab.seed import preserved

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """As many threads as torch has, or as there are mini-batches; on a GPU there is but the caller.

    While it is open, the caller's own operations run on one thread's share too.

    Args:
        batches: number of mini-batches.
        device: where they are.
    """

    def __init__(self, batches: int = 1, device: torch.device | None = None) -> None:
        self._threads = torch.get_num_threads()
        on_cpu = device is not None and device.type == "cpu"
        self._count = max(1, min(self._threads, batches)) if on_cpu else 1
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self._count > 1:
            torch.set_num_threads(self._threads // self._count)  # what new threads begin with, too
            self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="choose")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
            torch.set_num_threads(self._threads)

    def map(
        self, work: Callable[[Item], Result], items: Iterable[Item], *, in_turn: bool = False
    ) -> Iterator[Result]:
        """Results in the order of items; at most one more than there are threads waits to be taken.

        Args:
            work: on one item, without gradients.
            items: mini-batches.
            in_turn: one after the other all the same, each on all threads of torch.
        """
        if self._pool is None or in_turn:
            with self.wide():
                for item in items:
                    yield _still(work, item)
            return
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(self._pool.submit(_still, work, item))
            if len(waiting) > self._count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def each(self, work: Callable[[Item], object], items: Iterable[Item], *, in_turn: bool = False) -> None:
        """`map` for what has no result."""
        for _ in self.map(work, items, in_turn=in_turn):
            pass

    @contextmanager
    def wide(self) -> Iterator[None]:
        """For large operations of the caller's: all threads of torch."""
        if self._pool is None:
            yield
            return
        torch.set_num_threads(self._threads)
        try:
            yield
        finally:
            torch.set_num_threads(self._threads // self._count)


def _still(work: Callable[[Item], Result], item: Item) -> Result:
    with torch.no_grad():  # which every thread says for itself
        return work(item)


@torch.no_grad()
def draws(model: nn.Module, images: Tensor) -> bool:
    """Whether a network takes random numbers as it is now: then mini-batches must come in turn.

    Args:
        model: the network; what it remembers of a batch is its caller's business.
        images: pictures that it takes (B, 3, H, W).
    """
    with preserved():
        before = torch.get_rng_state()
        model(images[:2])
        return not torch.equal(before, torch.get_rng_state())
