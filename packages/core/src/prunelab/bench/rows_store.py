"""Row of the feature store: a batch in random order, beside one HDF5 data set a picture."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from prunelab.bench.compare import Result, Row, compare
from prunelab.data.store import FeatureStore, FeatureWriter

ITEMS, ROWS_AN_ITEM, WIDTH = 600, 144, 1536
BATCH = 16


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
    """All items once, in random order, copied into a batch's buffer; both sides read before (warm)."""
    import h5py

    order = np.random.default_rng(1).permutation(ITEMS).tolist()
    batches = [order[start : start + BATCH] for start in range(0, ITEMS, BATCH)]
    shape = BATCH, ROWS_AN_ITEM, WIDTH
    buffers = {"ours": np.zeros(shape, np.float16), "reference": np.zeros(shape, np.float16)}
    with _files() as (ours, reference):
        store = FeatureStore(ours)
        with h5py.File(reference, "r") as file:

            def read_ours(ids: list[int]) -> np.ndarray:
                return store.get_batch(ids, buffers["ours"])[0]

            def read_reference(ids: list[int]) -> np.ndarray:
                batch = buffers["reference"][: len(ids)]
                for place, image_id in enumerate(ids):
                    batch[place] = file[f"{image_id}_features"][()]  # pyright: ignore[reportIndexIssue]
                return batch

            def epoch(
                read: Callable[[list[int]], np.ndarray],
            ) -> Callable[[], Callable[[list[int]], np.ndarray]]:
                def run() -> Callable[[list[int]], np.ndarray]:
                    for ids in batches:
                        read(ids)
                    return read

                return run

            def equal(one: Callable, other: Callable) -> bool:
                return all(np.array_equal(one(ids), other(ids)) for ids in batches)

            return compare(
                "feature store",
                epoch(read_ours),
                epoch(read_reference),
                equal,
                warmup=2,
                work=ITEMS,
                unit="samples",
                goal=8.0,
                note=f"{ROWS_AN_ITEM}x{WIDTH} fp16, batches of {BATCH}; reference: one HDF5 data set a key",
            )


ROWS: dict[str, Callable[[], Result | list[Result]]] = {"feature-store": random_batches}
