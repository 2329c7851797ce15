"""A loader whose batches do not depend on workers, on other loaders, or on where a run was resumed."""

from __future__ import annotations

import multiprocessing
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, get_worker_info

from prunelab.data.sampling import (
    BatchSampler,
    EpochSampler,
    SampleKey,
    seed_sources,
    surroundings_restored,
)
from prunelab.errors import UserError
from prunelab.seed import derive

S = TypeVar("S", bound=BatchSampler)


class SizedDataset(Protocol):
    """What a loader needs of a data set."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """The sample at a position."""
        ...


class _Failure:
    """A user's mistake found in a worker; carried home as data, since an exception brings a traceback."""

    def __init__(self, message: str) -> None:
        self.message = message


class _SeededBatches:
    """Makes whole batches from keys; every sample, and then the collation, with random numbers of its own."""

    def __init__(self, dataset: SizedDataset, collate: Callable[[list[Any]], Any], seed: int) -> None:
        self.dataset, self.collate, self.seed = dataset, collate, seed

    def _make(self, keys: Sequence[SampleKey]) -> Any:
        samples = []
        for key in keys:
            seed_sources(derive(self.seed, "sample", *key))
            samples.append(self.dataset[key.sample])
        seed_sources(derive(self.seed, "collate", *keys[0]))
        return self.collate(samples)

    def __getitems__(self, keys: Sequence[SampleKey]) -> Any:
        """The batch of these keys (torch's loader calls this with all keys of a batch at once)."""
        try:
            if get_worker_info() is not None:  # a worker's random state is nobody's surroundings
                return self._make(keys)
            with surroundings_restored():
                return self._make(keys)
        except UserError as error:
            return _Failure(str(error))


def _as_it_is(batch: Any) -> Any:
    return batch


class Loader(Generic[S]):
    """Iterates over the present epoch's batches that are not yet consumed; made by `make_loader`, `load_in`.

    Attributes:
        dataset: the data set.
        sampler: order and position; the training loop sets its epoch and advances it, and saves its state.
    """

    def __init__(self, dataset: SizedDataset, sampler: S, loader: DataLoader[Any]) -> None:
        self.dataset, self.sampler = dataset, sampler
        self._held = [loader]
        # After an error we are in a circle with the exception's traceback. Were torch's loader in it too, the
        # garbage collector would close its queues before it tells its workers to end, and torch would wait
        # five seconds for each of them. Held by the finalizer, it is outside until we are gone.
        weakref.finalize(self, self._held.clear)

    def __len__(self) -> int:
        """Number of this rank's batches in a whole epoch."""
        return len(self.sampler)

    def _start(self) -> Iterator[Any]:
        with warnings.catch_warnings():
            # More workers than cores is the user's choice, and Python >= 3.12 warns of every fork beside a
            # thread: the workers use no thread of their parent.
            warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
            warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
            return iter(self._held[0])

    def __iter__(self) -> Iterator[Any]:
        """Yield what ``collate`` returned, batch by batch.

        Raises:
            UserError: raised by the data set or by ``collate``, in whatever process.
        """
        for batch in self._start():
            if isinstance(batch, _Failure):
                raise UserError(batch.message)
            yield batch


def make_loader(
    dataset: SizedDataset,
    *,
    batch_size: int,
    collate: Callable[[list[Any]], Any],
    seed: int,
    shuffle: bool,
    drop_last: bool,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    repeats: int = 1,
) -> Loader[EpochSampler]:
    """Make a loader over ``dataset``; see `EpochSampler` for how ranks share the samples.

    ``dataset[index]`` and ``collate(list of samples)`` may draw from ``random``, ``numpy.random`` and torch's
    CPU generator: they are seeded for each sample and each batch, and the states around are left alone.
    Workers live on between epochs, so what a data set caches in memory stays.
    """
    sampler = EpochSampler(
        len(dataset),
        batch_size,
        seed=seed,
        shuffle=shuffle,
        drop_last=drop_last,
        rank=rank,
        world_size=world_size,
        repeats=repeats,
    )
    return load_in(sampler, dataset, collate=collate, seed=seed, workers=workers, pin_memory=pin_memory)


def load_in(
    sampler: S,
    dataset: SizedDataset,
    *,
    collate: Callable[[list[Any]], Any],
    seed: int,
    workers: int = 0,
    pin_memory: bool = False,
) -> Loader[S]:
    """Make a loader that takes its batches from a sampler of one's own; all else is as in `make_loader`."""
    fork = sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)
        loader = DataLoader(
            _SeededBatches(dataset, collate, seed),  # pyright: ignore[reportArgumentType] - batches
            batch_sampler=sampler,  # pyright: ignore[reportArgumentType] - keys instead of numbers
            collate_fn=_as_it_is,
            num_workers=workers,
            pin_memory=pin_memory and torch.cuda.is_available(),
            # Its own, so that starting an epoch draws nothing from the model's generator.
            generator=torch.Generator().manual_seed(derive(seed, "loader")),
            multiprocessing_context="fork" if workers and fork else None,
            persistent_workers=workers > 0,
        )
    return Loader(dataset, sampler, loader)
