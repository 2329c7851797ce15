"""Row of the feature store: a batch in random order, beside one HDF5 data set a picture."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from prunelab.bench.compare import Result, Row, compare
from prunelab.data.store import FeatureStore, FeatureWriter

ITEMS, ROWS_AN_ITEM, WIDTH = 600, 144, 1536
BATCH = 16

Reader: TypeAlias = Callable[[list[int]], np.ndarray]


@contextmanager
def _files() -> Iterator[tuple[Path, Path]]:
    """The same Gaussian fp16 features as a store and as an HDF5 file, in a folder that goes away."""
    import h5py

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        ours, reference = Path(folder) / "store", Path(folder) / "features.hdf5"
        with FeatureWriter(ours, width=WIDTH) as writer, h5py.File(reference, "w") as file:
            for image_id in range(ITEMS):
                rows = rng.standard_normal((ROWS_AN_ITEM, WIDTH), dtype=np.float32).astype(np.float16)
                writer.add(image_id, rows)
                file.create_dataset(f"{image_id}_features", data=rows)
        yield ours, reference


def random_batches() -> Row:
    """All items once, in random order, as batches; every side has read all of them before (warm).

    The reference makes a batch as those do who keep features that way: each data set is read into an array of
    its own, then all are stacked. "h5py, one buffer" is the least that HDF5 can do: the only new array is the
    one that h5py returns.
    """
    import h5py

    order = np.random.default_rng(1).permutation(ITEMS).tolist()
    batches = [order[start : start + BATCH] for start in range(0, ITEMS, BATCH)]
    buffer = np.zeros((BATCH, ROWS_AN_ITEM, WIDTH), np.float16)
    with _files() as (ours, reference), h5py.File(reference, "r") as file:
        store = FeatureStore(ours)
        large = store.buffer(BATCH, ROWS_AN_ITEM)

        def read(image_id: int) -> np.ndarray:
            data_set: Any = file[f"{image_id}_features"]
            return data_set[()]

        def read_stacked(ids: list[int]) -> np.ndarray:
            return torch.stack([torch.from_numpy(read(image_id)) for image_id in ids]).numpy()

        def read_numpy(ids: list[int]) -> np.ndarray:
            return np.stack([read(image_id) for image_id in ids])

        def read_into_buffer(ids: list[int]) -> np.ndarray:
            for place, image_id in enumerate(ids):
                buffer[place] = read(image_id)
            return buffer[: len(ids)]

        def epoch(side: Reader) -> Callable[[], Reader]:
            def run() -> Reader:
                for ids in batches:
                    side(ids)
                return side

            return run

        def equal(one: Reader, other: Reader) -> bool:
            return all(np.array_equal(one(ids), other(ids)) for ids in batches)

        return compare(
            "feature store",
            epoch(lambda ids: store.get_batch(ids, large)[0]),
            epoch(read_stacked),
            equal,
            extra={"h5py, np.stack": epoch(read_numpy), "h5py, one buffer": epoch(read_into_buffer)},
            warmup=2,
            work=ITEMS,
            unit="samples",
            goal=8.0,
            note=f"{ROWS_AN_ITEM}x{WIDTH} fp16, batches of {BATCH}; one HDF5 data set a key, torch.stack",
        )


ROWS: dict[str, Callable[[], Result | list[Result]]] = {"feature-store": random_batches}
