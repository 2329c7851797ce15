"""CIFAR-10: the official Python batches, or folders of pictures, as arrays.

A folder holds either ``cifar-10-batches-py`` (or is that folder), or ``train`` and ``test`` with one folder
of pictures a class. Foreign pickles are read by the restricted unpickler alone.
"""

# N pictures of 32x32 pixels

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunelab.data.segmentation import find_pictures, read_image
from prunelab.errors import UserError
from prunelab.util import NUMPY_ARRAYS, StrPath, restricted_load

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = "cifar-10-batches-py"
"""Name of the folder that the official archive unpacks to."""
SIDE = 32
"""Height and width of a picture."""
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""Mean and standard deviation that pictures in [0, 1] are usually normalised by."""
SPLITS = ("train", "test")

_FILES = {"train": "data_batch_*", "test": "test_batch"}


@dataclass(frozen=True)
class Cifar10:
    """One split in memory."""

    images: np.ndarray
    """(N, 32, 32, 3) uint8, red, green, blue."""
    labels: np.ndarray
    """(N,) int64, places in `CLASSES`."""

    def __len__(self) -> int:
        return len(self.labels)


def find(folder: StrPath) -> Path | None:
    """The folder in ``folder`` (perhaps itself) that holds a set in a known layout; None: there is none."""
    root = Path(folder)
    for place in (root / BATCHES, root):
        if (place / _FILES["test"]).is_file() or all((place / split).is_dir() for split in SPLITS):
            return place
    return None


def open_cifar10(folder: StrPath, split: str) -> Cifar10:
    """Read a split.

    Args:
        folder: see the module's beginning.
        split: ``train`` or ``test``.

    Raises:
        UserError: there is no such set, or a file of it is missing, damaged, or not CIFAR-10's.
    """
    if split not in SPLITS:
        raise UserError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    place = find(folder)
    if place is None:
        raise UserError(
            f"{folder}: no CIFAR-10 in it; expected {BATCHES}, or folders train and test of pictures by class"
        )
    if (place / _FILES["test"]).is_file():
        return _from_batches(place, split)
    return _from_folders(place / split)


def _from_batches(folder: Path, split: str) -> Cifar10:
    files = sorted(folder.glob(_FILES[split]))
    if not files:
        raise UserError(f"{folder / _FILES[split]}: no such file, expected CIFAR-10's batches")
    parts = [_read_batch(file) for file in files]
    return Cifar10(np.concatenate([part.images for part in parts]), np.concatenate([p.labels for p in parts]))


def _read_batch(file: Path) -> Cifar10:
    """One official file: a dict with ``data`` (N, 3072) and ``labels``, its keys as bytes."""
    content: Any = restricted_load(file, NUMPY_ARRAYS, encoding="bytes")
    try:
        data, labels = np.asarray(content[b"data"]), np.asarray(content[b"labels"])
        # (N, 3072): red, green and blue planes, row by row
        images = data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        fits = data.dtype == np.uint8 and labels.shape == (len(images),) and labels.dtype.kind in "iu"
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{file}: not a batch of CIFAR-10; expected data of 3072 bytes a picture") from error
    if not fits or (len(labels) and not 0 <= labels.min() <= labels.max() < len(CLASSES)):
        raise UserError(f"{file}: not a batch of CIFAR-10; expected one label from 0 to 9 for each picture")
    return Cifar10(np.ascontiguousarray(images), labels.astype(np.int64))


def _from_folders(folder: Path) -> Cifar10:
    found = sorted(p.name for p in folder.iterdir() if p.is_dir())
    if found != sorted(CLASSES):
        raise UserError(f"{folder}: folders {', '.join(found) or 'none'}; expected {', '.join(CLASSES)}")
    images, labels = [], []
    for label, name in enumerate(CLASSES):
        for file in find_pictures(folder / name):
            image = read_image(file)
            if image.shape != (SIDE, SIDE, 3):
                size = f"{image.shape[0]}x{image.shape[1]}"
                raise UserError(f"{file}: picture of {size}, expected {SIDE}x{SIDE}")
            images.append(image)
            labels.append(label)
    return Cifar10(np.stack(images), np.array(labels, np.int64))
