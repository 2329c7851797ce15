"""Making training batches of CIFAR-10: all pictures at once, beside one after the other."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from channel_prune.benches.data_reference import training_batch_plain
from prunelab.bench import Result, Row, compare
from prunelab.transforms.classify import draw_shift, pad_crop_flip_batch

PICTURES, BATCH, BATCHES = 5000, 128, 20
"""Size of the set, of a batch, and batches of one timing."""


def training_batches() -> Row:
    """Pictures in memory to normalised, cropped and mirrored batches, at equal draws."""
    images = np.random.default_rng(0).integers(0, 256, (PICTURES, 32, 32, 3), dtype=np.uint8)
    rng = random.Random(0)
    drawn = [
        ([rng.randrange(PICTURES) for _ in range(BATCH)], [draw_shift(rng) for _ in range(BATCH)])
        for _ in range(BATCHES)
    ]

    def last(make: Callable[..., np.ndarray]) -> np.ndarray:
        """Make all batches, each in the memory of the one before, as a training does; gives the last one."""
        made = np.empty(0)
        for places, shifts in drawn:
            made = make(images, places, shifts)
        return made

    return compare(
        "training batches, CIFAR-10",
        lambda: last(pad_crop_flip_batch),
        lambda: last(training_batch_plain),
        np.array_equal,
        warmup=1,
        work=BATCH * BATCHES,
        unit="pictures",
        note=f"batches of {BATCH}: normalised, padded by 4, cropped, mirrored every second time; one thread, "
        "draws given; equal bit for bit",
    )


ROWS: dict[str, Callable[[], Result | list[Result]]] = {"training-batches": training_batches}
