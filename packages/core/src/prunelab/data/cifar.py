"""CIFAR-10: the official Python or binary batches, or folders of pictures, as arrays.

A folder holds ``cifar-10-batches-py`` or ``cifar-10-batches-bin`` (or is that folder), or ``train`` and
``test`` with one folder of pictures a class. Foreign pickles are read by the restricted unpickler alone.
"""

# N pictures of 32x32 pixels

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prunelab.data.segmentation import find_pictures, read_image
from prunelab.errors import UserError
from prunelab.util import NUMPY_ARRAYS, StrPath, atomic_write, restricted_load

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = "cifar-10-batches-py"
"""Name of the folder that the official archive of Python batches unpacks to."""
BINARY = "cifar-10-batches-bin"
"""Name of the folder that the official archive of the binary version unpacks to."""
RECORD = 3073
"""Bytes of a picture in the binary version: its label, then its red, green and blue planes row by row."""
SIDE = 32
"""Height and width of a picture."""
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""Mean and standard deviation that pictures in [0, 1] are usually normalised by."""
SPLITS = ("train", "test")

_FILES = {"train": "data_batch_*", "test": "test_batch"}
_BINARY_FILES = {"train": "data_batch_*.bin", "test": "test_batch.bin"}
_PARTS = 5  # files that the training pictures come in


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
    for place in (root / BATCHES, root / BINARY, root):
        batches = any((place / files["test"]).is_file() for files in (_FILES, _BINARY_FILES))
        if batches or all((place / split).is_dir() for split in SPLITS):
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
            f"{folder}: no CIFAR-10 in it; expected {BATCHES} or {BINARY}, or folders train and test of "
            "pictures by class"
        )
    for names, read in ((_FILES, _read_batch), (_BINARY_FILES, _read_binary)):
        if (place / names["test"]).is_file():
            return _from_files(place, names[split], read)
    return _from_folders(place / split)


def _from_files(folder: Path, name: str, read: Callable[[Path], Cifar10]) -> Cifar10:
    """Join a split's files; of the same name with and without ending, the layouts do not mix."""
    files = sorted(file for file in folder.glob(name) if name.endswith(".bin") or not file.suffix)
    if not files:
        raise UserError(f"{folder / name}: no such file, expected CIFAR-10's batches")
    parts = [read(file) for file in files]
    return Cifar10(np.concatenate([part.images for part in parts]), np.concatenate([p.labels for p in parts]))


def _read_binary(file: Path) -> Cifar10:
    """One file of the binary version: records of a label and 3072 bytes, and nothing else."""
    try:
        content = np.fromfile(file, np.uint8)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    if not len(content) or len(content) % RECORD:
        raise UserError(
            f"{file}: {len(content)} bytes, expected a multiple of {RECORD}: a label and 3072 bytes a picture"
        )
    records = content.reshape(-1, RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        raise UserError(
            f"{file}: label {labels.max()} in record {int(labels.argmax())}, expected 0 to {len(CLASSES) - 1}"
        )
    # (N, 3072): red, green and blue planes, row by row
    images = records[:, 1:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Cifar10(np.ascontiguousarray(images), labels)


def write_binary(folder: StrPath, train: Cifar10, test: Cifar10, *, classes: Sequence[str] = CLASSES) -> Path:
    """Write a set of such pictures in the binary version.

    Args:
        folder: where `BINARY` is made.
        train: pictures of the five training files.
        test: pictures of the test file.
        classes: their names, one a line in ``batches.meta.txt``.

    Returns:
        The folder ``cifar-10-batches-bin``.
    """
    place = Path(folder) / BINARY
    place.mkdir(parents=True, exist_ok=True)
    parts = zip(np.array_split(train.images, _PARTS), np.array_split(train.labels, _PARTS), strict=True)
    files = {f"data_batch_{number}.bin": part for number, part in enumerate(parts, 1) if len(part[1])}
    for name, (images, labels) in (files | {"test_batch.bin": (test.images, test.labels)}).items():
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)  # (N, 3072)
        records = np.concatenate([labels.astype(np.uint8)[:, None], planes], axis=1)
        with atomic_write(place / name) as file:
            file.write(records.tobytes())
    with atomic_write(place / "batches.meta.txt", "w") as file:
        file.write("".join(f"{name}\n" for name in classes))
    return place


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
