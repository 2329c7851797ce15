"""Data sets of pictures that a small network learns in no time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prunelab.data.cifar import CifarSplit, write_binary


def write_colours(folder: Path, *, train: int, test: int) -> None:
    """Write files of CIFAR-10 with so many pictures whose class is their colour, with noise."""
    write_binary(folder, _colours(train, 1), _colours(test, 2))


def _colours(count: int, seed: int, classes: int = 10) -> CifarSplit:
    generator = np.random.default_rng(seed)
    table = np.random.default_rng(99).integers(40, 216, (classes, 3))
    labels = generator.permutation(np.arange(count) % classes)
    noise = generator.integers(-40, 40, (count, 32, 32, 3))
    return CifarSplit((table[labels][:, None, None] + noise).astype(np.uint8), labels.astype(np.int64))
