"""A loader's batches without end, for trainings that are counted in steps or updates, not in epochs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prunelab.data.loader import Loader
from prunelab.errors import UserError


class Endless:
    """Epoch after epoch of a loader as one iterable; tracked by a run in place of the loader's sampler.

    Args:
        loader: gives equally many batches on every rank.

    Raises:
        UserError: it has none, since there are fewer samples than a batch.
    """

    def __init__(self, loader: Loader) -> None:
        if not len(loader):
            sampler = loader.sampler
            raise UserError(
                f"batch_size is {sampler.batch_size} in each of {sampler.world_size} processes, but the "
                f"training set has {len(loader.dataset)} pictures; expected a batch that they fill"
            )
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        """Yield batches from the sampler's position on."""
        sampler = self.loader.sampler
        while True:
            yield from self.loader
            sampler.set_epoch(sampler.epoch + 1)

    def set_epoch(self, epoch: int) -> None:
        """Nothing: the epoch follows from the batches that were consumed."""

    def advance(self) -> None:
        """Count one batch as consumed."""
        self.loader.sampler.advance()

    def state_dict(self) -> dict[str, Any]:
        """Epoch and position."""
        return self.loader.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken.

        Raises:
            UserError: the data, the batch size or the seed differ.
        """
        self.loader.sampler.load_state_dict(state)
