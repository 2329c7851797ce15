"""CIFAR-10 and CIFAR-100: the official Python or binary batches, or folders of pictures, as arrays.

A folder holds ``cifar-10-batches-py`` or ``cifar-10-batches-bin`` (of CIFAR-100 ``cifar-100-python`` or
``cifar-100-binary``), or is that folder, or has ``train`` and ``test`` with one folder of pictures a class.
Foreign pickles are read by the restricted unpickler alone.
"""

# N pictures of 32x32 pixels

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prunelab.data.segmentation import find_pictures, read_image
from prunelab.errors import UserError
from prunelab.util import NUMPY_ARRAYS, StrPath, atomic_write, restricted_load

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Of CIFAR-10."""
# fmt: off
CLASSES_100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl",
    "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair",
    "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin",
    "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp",
    "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck",
    "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television",
    "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm",
)
# fmt: on
"""The fine classes of CIFAR-100."""
SIDE = 32
"""Height and width of a picture."""
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""Mean and standard deviation that pictures of CIFAR-10 in [0, 1] are usually normalised by."""
SPLITS = ("train", "test")

_PARTS = 5  # files that the training pictures of CIFAR-10 come in


@dataclass(frozen=True, kw_only=True)
class Published:
    """A set as it is published."""

    name: str
    """What people call it."""
    classes: tuple[str, ...]
    """Names of its classes."""
    url: str
    """Where the archive of the Python batches is; its last part is the file's name."""
    md5: str
    """MD5 sum of the archive."""
    batches: str
    """The folder that the archive unpacks to."""
    sums: Mapping[str, str]
    """Files of it, with their MD5 sums."""
    binary: str
    """The folder that the archive of the binary version unpacks to."""
    files: Mapping[str, str]
    """Of a split: its files among the Python batches, as a glob; those of the binary version end in .bin."""
    labels: bytes
    """Key of the labels in a Python batch."""
    label_bytes: int
    """Bytes before a picture in the binary version; the last one is its label."""
    names_file: str
    """File of the binary version that names the classes, one a line."""

    @property
    def record(self) -> int:
        """Bytes of a picture in the binary version: labels, then red, green and blue planes row by row."""
        return self.label_bytes + 3 * SIDE * SIDE

    @property
    def layouts(self) -> str:
        """What a folder of it looks like, for people."""
        return f"{self.batches} or {self.binary}, or folders train and test of pictures by class"


CIFAR10 = Published(
    name="CIFAR-10",
    classes=CLASSES,
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    batches="cifar-10-batches-py",
    sums={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    binary="cifar-10-batches-bin",
    files={"train": "data_batch_*", "test": "test_batch"},
    labels=b"labels",
    label_bytes=1,
    names_file="batches.meta.txt",
)
CIFAR100 = Published(
    name="CIFAR-100",
    classes=CLASSES_100,
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    batches="cifar-100-python",
    sums={"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    binary="cifar-100-binary",
    files={"train": "train", "test": "test"},
    labels=b"fine_labels",
    label_bytes=2,
    names_file="fine_label_names.txt",
)


@dataclass(frozen=True)
class CifarSplit:
    """One split in memory."""

    images: np.ndarray
    """(N, 32, 32, 3) uint8, red, green, blue."""
    labels: np.ndarray
    """(N,) int64, places in the classes."""

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, chosen: np.ndarray) -> CifarSplit:
        """Some of its pictures, by places or as a mask (N,)."""
        return CifarSplit(self.images[chosen], self.labels[chosen])


def find(folder: StrPath, of: Published = CIFAR10) -> Path | None:
    """The folder in ``folder`` (perhaps itself) that holds a set in a known layout; None: there is none."""
    root, test = Path(folder), of.files["test"]
    for place in (root / of.batches, root / of.binary, root):
        batches = any((place / name).is_file() for name in (test, f"{test}.bin"))
        if batches or all((place / split).is_dir() for split in SPLITS):
            return place
    return None


def open_cifar(folder: StrPath, split: str, of: Published = CIFAR10) -> CifarSplit:
    """Read a split.

    Args:
        folder: see the module's beginning.
        split: ``train`` or ``test``.
        of: which set.

    Raises:
        UserError: there is no such set, or a file of it is missing, damaged, or not of this set.
    """
    if split not in SPLITS:
        raise UserError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    place = find(folder, of)
    if place is None:
        raise UserError(f"{folder}: no {of.name} in it; expected {of.layouts}")
    for ending, read in (("", _read_batch), (".bin", _read_binary)):
        if (place / f"{of.files['test']}{ending}").is_file():
            return _from_files(place, f"{of.files[split]}{ending}", partial(read, of=of), of)
    return _from_folders(place / split, of)


def _from_files(folder: Path, name: str, read: Callable[[Path], CifarSplit], of: Published) -> CifarSplit:
    """Join a split's files; of the same name with and without ending, the layouts do not mix."""
    files = sorted(file for file in folder.glob(name) if name.endswith(".bin") or not file.suffix)
    if not files:
        raise UserError(f"{folder / name}: no such file, expected {of.name}'s batches")
    parts = [read(file) for file in files]
    images, labels = ([getattr(part, name) for part in parts] for name in ("images", "labels"))
    return CifarSplit(np.concatenate(images), np.concatenate(labels))


def _read_binary(file: Path, of: Published) -> CifarSplit:
    """One file of the binary version: records of labels and 3072 bytes, and nothing else."""
    try:
        content = np.fromfile(file, np.uint8)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    if not len(content) or len(content) % of.record:
        before = "a label" if of.label_bytes == 1 else f"{of.label_bytes} labels"
        raise UserError(
            f"{file}: {len(content)} bytes, expected a multiple of {of.record}: {before} and 3072 bytes a "
            "picture"
        )
    records = content.reshape(-1, of.record)
    labels = records[:, of.label_bytes - 1].astype(np.int64)
    if labels.max() >= len(of.classes):
        raise UserError(
            f"{file}: label {labels.max()} in record {int(labels.argmax())}, expected 0 to "
            f"{len(of.classes) - 1}"
        )
    # (N, 3072): red, green and blue planes, row by row
    images = records[:, of.label_bytes :].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return CifarSplit(np.ascontiguousarray(images), labels)


def write_binary(
    folder: StrPath,
    train: CifarSplit,
    test: CifarSplit,
    *,
    classes: Sequence[str] | None = None,
    of: Published = CIFAR10,
) -> Path:
    """Write a set of such pictures in the binary version.

    Args:
        folder: where the folder of the binary version is made.
        train: training pictures; those of CIFAR-10 lie in five files.
        test: pictures of the test file.
        classes: their names; None: those of the published set.
        of: the set whose layout it is; labels besides the last one are zeros.

    Returns:
        The folder, say ``cifar-10-batches-bin``.
    """
    place = Path(folder) / of.binary
    place.mkdir(parents=True, exist_ok=True)
    files = {f"{of.files['test']}.bin": test}
    if "*" in of.files["train"]:
        parts = enumerate(np.array_split(np.arange(len(train)), _PARTS), 1)
        files |= {f"{of.files['train']}.bin".replace("*", str(n)): train.part(p) for n, p in parts if len(p)}
    else:
        files[f"{of.files['train']}.bin"] = train
    for name, split in files.items():
        before = np.zeros((len(split), of.label_bytes), np.uint8)
        before[:, -1] = split.labels
        planes = split.images.transpose(0, 3, 1, 2).reshape(len(split), -1)  # (N, 3072)
        with atomic_write(place / name) as file:
            file.write(np.concatenate([before, planes], axis=1).tobytes())
    with atomic_write(place / of.names_file, "w") as file:
        file.write("".join(f"{name}\n" for name in classes or of.classes))
    return place


def _read_batch(file: Path, of: Published) -> CifarSplit:
    """One official file: a dict with ``data`` (N, 3072) and labels, its keys as bytes."""
    content: Any = restricted_load(file, NUMPY_ARRAYS, encoding="bytes")
    try:
        data, labels = np.asarray(content[b"data"]), np.asarray(content[of.labels])
        # (N, 3072): red, green and blue planes, row by row
        images = data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        fits = data.dtype == np.uint8 and labels.shape == (len(images),) and labels.dtype.kind in "iu"
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"{file}: not a batch of {of.name}; expected {of.labels.decode()}, and data of 3072 bytes a "
            "picture"
        ) from error
    if not fits or (len(labels) and not 0 <= labels.min() <= labels.max() < len(of.classes)):
        raise UserError(
            f"{file}: not a batch of {of.name}; expected one label from 0 to {len(of.classes) - 1} for each "
            "picture"
        )
    return CifarSplit(np.ascontiguousarray(images), labels.astype(np.int64))


def _from_folders(folder: Path, of: Published) -> CifarSplit:
    found = sorted(p.name for p in folder.iterdir() if p.is_dir())
    if found != sorted(of.classes):
        raise UserError(f"{folder}: folders {', '.join(found) or 'none'}; expected {', '.join(of.classes)}")
    images, labels = [], []
    for label, name in enumerate(of.classes):
        for file in find_pictures(folder / name):
            image = read_image(file)
            if image.shape != (SIDE, SIDE, 3):
                size = f"{image.shape[0]}x{image.shape[1]}"
                raise UserError(f"{file}: picture of {size}, expected {SIDE}x{SIDE}")
            images.append(image)
            labels.append(label)
    return CifarSplit(np.stack(images), np.array(labels, np.int64))
