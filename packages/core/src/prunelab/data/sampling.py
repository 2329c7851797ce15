"""Which sample comes when, and with which random numbers.

Nothing here remembers a random state. The order of an epoch depends on (seed, epoch) alone, a sample's random
numbers on (seed, epoch, sample, draw), a batch's on its first key; so a run may use any number of workers,
evaluate whenever it likes, be killed and resumed, and sees the same bits.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from prunelab.errors import UserError
from prunelab.seed import derive


class SampleKey(NamedTuple):
    """Names one use of one sample: the only thing that its random numbers depend on, besides the seed."""

    epoch: int
    sample: int
    """Position in the data set."""
    draw: int
    """How often this sample has been used before in this epoch."""


class BatchSampler(Protocol):
    """The order of samples, epoch by epoch, and the position in it; what a run tracks as its sampler."""

    epoch: int
    """The present epoch, from 0."""

    def __len__(self) -> int:
        """Number of this rank's batches in a whole epoch."""
        ...

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yield the batches of the present epoch that are not yet consumed; moves nothing."""
        ...

    def set_epoch(self, epoch: int, /) -> None:
        """Go to an epoch's beginning; the present one keeps its position."""
        ...

    def advance(self) -> None:
        """Count one batch as consumed."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Epoch, position, and what the order depends on: plain data."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on where the state was taken."""
        ...


def seed_sources(seed: int) -> None:
    """Seed Python's, NumPy's (legacy) and torch's CPU generator with three different streams of one seed.

    The generators of accelerators are left alone: data is prepared on the CPU.
    """
    random.seed(derive(seed, "python"))
    np.random.seed(derive(seed, "numpy") & 0xFFFFFFFF)  # noqa: NPY002 - transforms draw from it
    torch.default_generator.manual_seed(derive(seed, "torch"))


@contextmanager
def surroundings_restored() -> Iterator[None]:
    """Give Python's, NumPy's and torch's CPU generator their states back when the block ends."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.default_generator.set_state(states[2])


class EpochSampler:
    """Yields the batches of one epoch, as lists of `SampleKey`, from `position` on.

    Training (``shuffle`` or ``drop_last``): one global batch of ``batch_size * world_size`` keys a step, cut
    into one run of neighbours a rank, so every rank gets equally many batches and the sequence of global
    batches does not depend on the number of ranks. A short last batch is dropped (``drop_last``) or shared
    out evenly; fewer keys than ranks are dropped.

    Evaluation (neither): the batches of a single process are dealt out to the ranks in turn, so every sample
    comes exactly once for every size and number of ranks, in the very batches of a single process. A rank may
    get none.

    Args:
        size: number of samples N.
        batch_size: keys a batch and rank.
        seed: seed of the order.
        shuffle: a new order each epoch, from (seed, epoch).
        drop_last: leave out the last batch if it is short.
        rank: this process.
        world_size: number of processes.
        repeats: how often a sample comes in one epoch; the key's ``draw`` tells the times apart.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        rank: int = 0,
        world_size: int = 1,
        repeats: int = 1,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch size is {batch_size}; expected at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}; expected 0 to {world_size - 1}")
        self.size, self.batch_size, self.seed, self.repeats = size, batch_size, seed, repeats
        self.shuffle, self.drop_last = shuffle, drop_last
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.position = 0

    @property
    def even(self) -> bool:
        """Whether all ranks get equally many batches (training)."""
        return self.shuffle or self.drop_last

    def __len__(self) -> int:
        """Number of this rank's batches in a whole epoch."""
        total = self.size * self.repeats
        if not self.even:
            batches = -(-total // self.batch_size)
            return len(range(self.rank, batches, self.world_size))
        whole, rest = divmod(total, self.batch_size * self.world_size)
        return whole + (not self.drop_last and rest >= self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch's beginning; the present one keeps its position, so that a resumed epoch goes on."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def advance(self) -> None:
        """Count one batch as consumed; called by the consumer, since workers fetch ahead of it."""
        self.position += 1

    def order(self) -> list[SampleKey]:
        """All keys of the present epoch, in order."""
        total = self.size * self.repeats
        if self.shuffle:
            generator = torch.Generator().manual_seed(derive(self.seed, "order", self.epoch))
            places = torch.randperm(total, generator=generator).tolist()
        else:
            places = range(total)
        return [SampleKey(self.epoch, place % self.size, place // self.size) for place in places]

    def _cut(self, batch: int) -> slice:
        """Where this rank's batch number ``batch`` lies in the epoch's order."""
        if not self.even:
            start = (batch * self.world_size + self.rank) * self.batch_size
            return slice(start, start + self.batch_size)
        start = batch * self.batch_size * self.world_size
        count = min(self.size * self.repeats - start, self.batch_size * self.world_size)
        # A short last batch is cut as evenly as it goes; a whole one gives exactly batch_size to each rank.
        begin, end = (count * r // self.world_size for r in (self.rank, self.rank + 1))
        return slice(start + begin, start + end)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yield the batches not yet consumed; does not move `position`."""
        keys = self.order()
        for batch in range(self.position, len(self)):
            yield keys[self._cut(batch)]

    def _identity(self) -> dict[str, int | bool]:
        return {
            "size": self.size,
            "global_batch": self.batch_size * self.world_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "repeats": self.repeats,
        }

    def state_dict(self) -> dict[str, Any]:
        """Epoch, position, and what the order depends on: plain data."""
        return {"epoch": self.epoch, "position": self.position, "order": self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken.

        Raises:
            UserError: the data, the batch size or the seed differ, so that the position would mean something
                else.
        """
        saved, ours = state["order"], self._identity()
        for name, value in ours.items():
            if saved.get(name) != value:
                raise UserError(
                    f"cannot resume: data order's {name} was {saved.get(name)} and is now {value}"
                )
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
