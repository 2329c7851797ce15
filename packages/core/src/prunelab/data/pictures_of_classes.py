"""Pictures in one folder a class, as ILSVRC-12 is usually unpacked, and as one's own pictures may lie.

A folder holds ``train`` and ``val`` (or ``validation``, or ``test``) with one folder of pictures a class in
each, named alike, and perhaps ``test`` besides; or the folders of classes themselves, out of which every
tenth picture or so is then kept for validation. Classes are numbered in the order of their names, which for
ILSVRC-12 is that of its synsets, unless a file ``classes.txt`` beside them says another: a folder's name a
line, and after a tab, if one likes, what to call the class.
"""

# N pictures, K classes

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prunelab.data.pictures import FORMATS, read_picture
from prunelab.data.segmentation import PICTURES
from prunelab.errors import UserError
from prunelab.util import StrPath

CLASS_FILE = "classes.txt"
"""Name of the file that orders and names the classes."""
VAL_FOLDERS = ("val", "validation", "test")
"""Names that the folder of validation may have."""
VAL_SHARE = 0.1
"""Share of each class that is kept for validation where there is no folder of it."""

_ENDS = (b"\xff\xd9", b"IEND\xaeB`\x82")  # last bytes of whole JPEG and PNG files


def spread(total: int, count: int) -> np.ndarray:
    """``count`` places out of ``total``, evenly spread, rising, always the same; all if there are no more.

    One place is drawn from each of ``count`` equal parts: equal steps would meet one class alone where
    classes take turns.
    """
    count = min(count, total)
    drawn = np.random.default_rng(0).random(count)
    return ((np.arange(count) + drawn) * total / max(count, 1)).astype(np.int64)


def _kept_of(members: int, share: float) -> int:
    """How many pictures of a class are kept for validation: at least one, and never all."""
    return min(max(round(share * members), 1), members - 1)


def kept_back(labels: np.ndarray, share: float) -> np.ndarray:
    """Choose pictures of a training set to be kept back for validation, the same ones whenever it is asked.

    Args:
        labels: classes (N,).
        share: of each class; at least one picture, and never all.

    Returns:
        Which they are, a mask (N,).
    """
    kept = np.zeros(len(labels), bool)
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        order = np.random.default_rng(label).permutation(members)
        kept[order[: _kept_of(len(members), share)]] = True
    return kept


@dataclass(frozen=True)
class LabelledFiles:
    """Picture files with their classes."""

    files: tuple[Path, ...]
    """N paths."""
    labels: np.ndarray
    """(N,) int64, places in the classes."""

    def __len__(self) -> int:
        return len(self.files)

    def some(self, count: int) -> LabelledFiles:
        """So many of them, spread evenly over the list; all where there are no more."""
        return self.part(spread(len(self), count))

    def part(self, chosen: np.ndarray) -> LabelledFiles:
        """Some of them, by places or as a mask (N,)."""
        places = np.arange(len(self))[chosen]
        return LabelledFiles(tuple(self.files[i] for i in places), self.labels[places])


@dataclass(frozen=True, kw_only=True)
class PicturesOfClasses:
    """A data set of folders of classes."""

    folder: Path
    """Where it lies."""
    folders: tuple[str, ...]
    """Names of the folders of classes (K), in the order of the labels."""
    names: tuple[str, ...]
    """What the classes are called (K)."""
    splits: Mapping[str, LabelledFiles]
    """``train`` and ``val``; ``test`` where there is a folder of it besides that of validation."""
    val_folder: str
    """Name of the folder that ``val`` is; empty: it was kept back from training."""
    how: str
    """How the splits came about, for people."""


def open_pictures_of_classes(
    folder: StrPath, *, seed: int = 0, val_share: float = VAL_SHARE
) -> PicturesOfClasses:
    """List the pictures; none is opened.

    Args:
        folder: see the module's beginning.
        seed: chooses the pictures of validation where there is no folder of them; the choice depends on
            nothing else but the names of the files.
        val_share: share of each class that is chosen, at least one picture, and never all.

    Raises:
        UserError: there is no such folder, it has no folders of classes with pictures in them, or validation
            has a class that training lacks.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder, expected one with train and val, or a folder for each class"
        )
    train = root / "train"
    if not train.is_dir():
        return _without_validation(root, root, seed, val_share)
    val = next((root / name for name in VAL_FOLDERS if (root / name).is_dir()), None)
    if val is None:
        return _without_validation(root, train, seed, val_share)
    folders, names = _classes(root, train)
    if surplus := sorted(set(_folders(val)) - set(folders)):
        raise UserError(
            f"{val / surplus[0]}: a class of which {train} has no folder; expected the same folders in both"
        )
    splits = {"train": _listed(train, folders), "val": _listed(val, folders)}
    test = root / "test"
    if val != test and test.is_dir() and set() < set(_folders(test)) <= set(folders):
        splits["test"] = _listed(test, folders)
    return PicturesOfClasses(
        folder=root,
        folders=folders,
        names=names,
        splits=splits,
        val_folder=val.name,
        how=f"train and {val.name} as they lie in {root}",
    )


def _without_validation(root: Path, place: Path, seed: int, val_share: float) -> PicturesOfClasses:
    """Keep a share of each class for validation, chosen by the names of its files."""
    from prunelab.seed import derive  # brings torch, which listing folders needs not

    folders, names = _classes(root, place)
    found = _listed(place, folders)
    kept = np.zeros(len(found), bool)
    for label, name in enumerate(folders):
        members = np.flatnonzero(found.labels == label)
        count = _kept_of(len(members), val_share)
        order = sorted(members, key=lambda i: derive(seed, "validation", name, found.files[i].name))
        kept[order[:count]] = True
    return PicturesOfClasses(
        folder=root,
        folders=folders,
        names=names,
        splits={"train": found.part(~kept), "val": found.part(kept)},
        val_folder="",
        how=(
            f"{place} has no validation beside it: {kept.sum()} of {len(found)} pictures were kept for it, "
            f"chosen by seed {seed}"
        ),
    )


def _folders(place: Path) -> list[str]:
    return sorted(p.name for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))


def _classes(root: Path, place: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Folders of classes in the order of their labels, and what the classes are called."""
    found = _folders(place)
    if not found:
        raise UserError(f"{place}: no folders of classes in it, expected one with pictures for each class")
    file = root / CLASS_FILE
    if not file.is_file():
        return tuple(found), tuple(found)
    try:
        lines = [line.split("\t", 1) for line in file.read_text(encoding="utf-8-sig").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as a list of classes ({error})") from error
    named = [line[0].strip() for line in lines]
    for number, name in enumerate(named, 1):
        if name in named[: number - 1]:
            raise UserError(f"{file}: {name!r} stands there twice, expected each class once")
    if odd := sorted(set(named) ^ set(found)):
        where = f"has no folder in {place}" if odd[0] in named else "is missing there"
        raise UserError(f"{file}: {odd[0]!r} {where}, expected a line for each folder of {place}")
    return tuple(named), tuple(line[-1].strip() for line in lines)


def _listed(place: Path, folders: Sequence[str]) -> LabelledFiles:
    """All pictures of a split, class by class, each in the order of the names."""
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(folders):
        if not (place / name).is_dir():
            continue
        found = sorted(p for p in (place / name).rglob("*") if p.suffix.lower() in PICTURES)
        if not found:
            raise UserError(f"{place / name}: no pictures in it, expected .jpg or .png files")
        files += found
        labels += [label] * len(found)
    if not files:
        raise UserError(f"{place}: no folders of classes in it, expected one with pictures for each class")
    return LabelledFiles(tuple(files), np.array(labels, np.int64))


def _looked_at(path: Path) -> tuple[int, int]:
    """Width and height, from the first bytes; the rest is decoded only where the file ends in an odd way."""
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(file, formats=FORMATS) as image:
                size = image.size
            file.seek(max(os.fstat(file.fileno()).st_size - 8, 0))
            if file.read().endswith(_ENDS):
                return size
    except (OSError, SyntaxError, ValueError):
        pass  # reading it says what is wrong
    return read_picture(path).size


def check_pictures(found: LabelledFiles, classes: int, *, workers: int | None = None) -> dict[str, Any]:
    """Look at picture files: are they pictures, and whole?

    Args:
        found: which.
        classes: K.
        workers: threads that read; None: one a core, eight at most.

    Returns:
        ``files``, their number; ``counts``, how many each class has (K); ``smallest`` and ``largest``, the
        shorter sides in pixels.

    Raises:
        UserError: the first file that is missing, of another kind, cut off or damaged.
    """
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        try:
            sizes = list(pool.map(_looked_at, found.files))
        except UserError:
            pool.shutdown(cancel_futures=True)
            raise
    sides = [min(size) for size in sizes]
    return {
        "files": len(found),
        "counts": np.bincount(found.labels, minlength=classes).tolist(),
        "smallest": min(sides, default=0),
        "largest": max(sides, default=0),
    }
