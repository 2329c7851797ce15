"""The order of samples of the original's loader, which the quirk ``original_order`` keeps.

Each epoch is shuffled by Python's generator with a seed of its own; what is left over after the last whole
round of batches on all processes is dropped. Samples are dealt to the processes one by one, so ``batch_size``
is what all of them read together, as far as it can be shared evenly.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

from prunelab.data.sampling import SampleKey
from prunelab.errors import UserError

SEEDS_AN_EPOCH, REPETITIONS = 2, 10
"""The original draws two seeds for each epoch and repeats the list ten times."""


def init_seeds(seed: int, num_epochs: int) -> list[float]:
    """Seeds of the epochs' orders, as the original draws them from the run's seed, without repetition."""
    generator = random.Random(seed)
    return [generator.random() for _ in range(SEEDS_AN_EPOCH * num_epochs)]


class OriginalOrder:
    """A sampler in the original's order; see `prunelab.data.sampling.BatchSampler`.

    Args:
        size: number of samples.
        batch_size: samples of a batch of all processes together; where they cannot share it evenly, the
            next larger number that they can share and that it divides.
        seeds: of the epochs; repeated.
        rank: this process.
        world_size: number of processes.

    Attributes:
        seeds: of the epochs, repeated as checkpoints of the original have them.
        epoch: the present epoch, from 0.
        position: batches of it that are consumed.
    """

    def __init__(
        self, size: int, batch_size: int, *, seeds: Sequence[float], rank: int = 0, world_size: int = 1
    ) -> None:
        self.size, self.batch_size = size, batch_size
        self.rank, self.world_size = rank, world_size
        self.seeds = tuple(seeds) * REPETITIONS
        self.epoch = self.position = 0

    @property
    def global_batch(self) -> int:
        """Samples of a batch of all processes together."""
        return math.lcm(self.batch_size, self.world_size)

    @property
    def used(self) -> int:
        """Samples of an epoch that are not dropped."""
        return self.size - self.size % (self.batch_size * self.world_size)

    def __len__(self) -> int:
        """Number of this rank's batches in a whole epoch; the same on each."""
        return self.used // self.global_batch

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch's beginning; the present one keeps its position."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def advance(self) -> None:
        """Count one batch as consumed."""
        self.position += 1

    def begin_at(self, epoch: int, position: int, seeds: Sequence[float] = ()) -> None:
        """Go on where a checkpoint of the original ends.

        Args:
            epoch: from 0.
            position: batches of it that were consumed.
            seeds: its list of seeds, repetitions included; none: those that are known stay.
        """
        self.epoch, self.position = epoch, position
        self.seeds = tuple(seeds) or self.seeds

    def _shuffled(self) -> tuple[random.Random, list[int]]:
        """The generator after the present epoch's shuffle, and all samples in their order."""
        if self.epoch >= len(self.seeds):
            raise UserError(
                f"epoch {self.epoch + 1} has no seed: the original's order has those of {len(self.seeds)}"
            )
        generator = random.Random(self.seeds[self.epoch])
        order = list(range(self.size))
        generator.shuffle(order)
        return generator, order

    def generator(self) -> random.Random:
        """Python's generator as the present epoch's shuffle left it; the validation loss goes on with it."""
        return self._shuffled()[0]

    def order(self) -> list[int]:
        """All samples of the present epoch that are not dropped, of all processes, in order."""
        return self._shuffled()[1][: self.used]

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yield this rank's batches that are not yet consumed."""
        mine = self.order()[self.rank :: self.world_size]
        share = self.global_batch // self.world_size
        for start in range(self.position * share, len(mine), share):
            yield [SampleKey(self.epoch, sample, 0) for sample in mine[start : start + share]]

    def _identity(self) -> dict[str, int]:
        return {"size": self.size, "global_batch": self.global_batch}

    def state_dict(self) -> dict[str, Any]:
        """Epoch, position and what the order depends on: plain data."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "seeds": list(self.seeds),
            "order": self._identity(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken, with the seeds that it has.

        Raises:
            UserError: the data or the batch size differ, so that the position would mean something else.
        """
        for name, value in self._identity().items():
            if state["order"].get(name) != value:
                raise UserError(
                    f"cannot resume: data order's {name} was {state['order'].get(name)} and is now {value}"
                )
        self.begin_at(int(state["epoch"]), int(state["position"]), state["seeds"])
