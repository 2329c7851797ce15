"""Row of the feature store: a batch in random order, beside one HDF5 data set a picture."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

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
    """All items once, in random order, copied into a batch's buffer; all sides have read before (warm)."""
    import h5py

    order = np.random.default_rng(1).permutation(ITEMS).tolist()
    batches = [order[start : start + BATCH] for start in range(0, ITEMS, BATCH)]
    buffer = np.zeros((BATCH, ROWS_AN_ITEM, WIDTH), np.float16)
    with _files() as (ours, reference), h5py.File(reference, "r") as file:
        stores = {threads: FeatureStore(ours, threads=threads) for threads in (1, 2)}

        def read(image_id: int) -> np.ndarray:
            data_set: Any = file[f"{image_id}_features"]
            return data_set[()]

        def read_reference(ids: list[int]) -> np.ndarray:
            for place, image_id in enumerate(ids):
                buffer[place] = read(image_id)
            return buffer[: len(ids)]

        sides: dict[str, Reader] = {
            "ours": lambda ids: stores[1].get_batch(ids, buffer)[0],
            "ours, two threads": lambda ids: stores[2].get_batch(ids, buffer)[0],
            "h5py and np.stack": lambda ids: np.stack([read(image_id) for image_id in ids]),
            "reference": read_reference,
        }

        def epoch(side: Reader) -> Callable[[], Reader]:
            def run() -> Reader:
                for ids in batches:
                    side(ids)
                return side

            return run

        def equal(one: Reader, other: Reader) -> bool:
            return all(np.array_equal(one(ids).copy(), other(ids)) for ids in batches)  # one buffer for all

        calls = {name: epoch(side) for name, side in sides.items()}
        return compare(
            "feature store",
            calls.pop("ours"),
            calls.pop("reference"),
            equal,
            extra=calls,
            warmup=2,
            work=ITEMS,
            unit="samples",
            goal=8.0,
            note=f"{ROWS_AN_ITEM}x{WIDTH} fp16, batches of {BATCH}; reference: one HDF5 data set a key",
        )


ROWS: dict[str, Callable[[], Result | list[Result]]] = {"feature-store": random_batches}
