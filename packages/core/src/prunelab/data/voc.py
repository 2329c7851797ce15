"""Pictures with boxes in the layout of Pascal VOC, the real set's or one's own.

A folder such as ``VOC2007`` looks like this::

    JPEGImages/000001.jpg            pictures (.jpg, .jpeg or .png)
    Annotations/000001.xml           their size, and name, box and difficulty of every object
    ImageSets/Main/trainval.txt      names of pictures, one a line; also train, val, test

and lies with others of its kind in a folder ``VOCdevkit`` or in any other one. Own pictures need no
``ImageSets``: every tenth one is then kept for validation. Boxes are those of the files: xmin, ymin, xmax and
ymax in pixels.
"""

# n objects, K classes

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prunelab.data.segmentation import PICTURES
from prunelab.doors import did_you_mean
from prunelab.errors import UserError
from prunelab.util import StrPath

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train"),
    "tvmonitor",
)
"""Classes of Pascal VOC; label k is the k-th, from 1, and 0 is background."""
KEPT_FOR_VALIDATION = 10
"""Of pictures without lists every tenth is."""
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, order=True)
class VocSample:
    """A picture and the file about its objects."""

    image: Path
    annotation: Path

    @property
    def name(self) -> str:
        """The picture's name: that of its file without the ending."""
        return self.image.stem


@dataclass(frozen=True, kw_only=True)
class VocObjects:
    """What is on a picture."""

    labels: np.ndarray
    """Classes from 1, (n,) int64."""
    boxes: np.ndarray
    """xmin, ymin, xmax, ymax in pixels, (n, 4) float32."""
    difficult: np.ndarray
    """(n,) bool."""
    height: int
    """Of the picture."""
    width: int
    """Of the picture."""


# ------------------------------------------------------------------------------------------------- folders


def _is_voc(folder: Path) -> bool:
    return (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()


def find_voc(root: StrPath) -> dict[str, Path]:
    """Folders in the layout of Pascal VOC by name: the given one, or those in it or in its ``VOCdevkit``.

    Raises:
        UserError: there is none.
    """
    folder = Path(root)
    if _is_voc(folder):
        return {folder.resolve().name: folder}
    for place in (folder, folder / "VOCdevkit"):
        found = sorted(f for f in place.iterdir() if _is_voc(f)) if place.is_dir() else []
        if found:
            return {f.name: f for f in found}
    raise UserError(
        f"{folder}: no data set in the layout of Pascal VOC, expected a folder (such as VOC2007) with "
        "JPEGImages and Annotations in it, or in its VOCdevkit"
    )


def read_image_set(root: StrPath, image_set: str) -> list[VocSample]:
    """The pictures of an image set, in its order; whether their annotations are right is not looked at.

    Args:
        root: see `find_voc`.
        image_set: such as ``VOC2007/trainval``, or ``trainval`` alone where there is one folder. Of a folder
            without lists there are ``train``, ``val`` and ``trainval``; ``test`` is ``val``.

    Raises:
        UserError: a folder, a list or a picture is missing.
    """
    folders = find_voc(root)
    name, _, split = image_set.rpartition("/")
    if not name and len(folders) == 1:
        name = next(iter(folders))
    if name not in folders:
        raise UserError(
            f"{Path(root)}: image set {image_set!r} is not in it, expected FOLDER/SET with one of "
            f"{', '.join(folders)}"
        )
    folder = folders[name]
    lists = folder / "ImageSets" / "Main"
    pictures = _pictures(folder)
    if not lists.is_dir():
        return _without_lists(folder, pictures, split)
    path = lists / f"{split}.txt"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in lists.glob("*.txt"))) or "none"
        raise UserError(f"{path}: no such image set, expected one of those in its folder: {there}")
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 1 or words[0] not in pictures:
            raise UserError(
                f"{path}, line {number}: {line.strip()!r} is no picture of {folder / 'JPEGImages'}, expected "
                "the name of one, without its ending"
            )
        samples.append(_sample(folder, pictures[words[0]]))
    if not samples:
        raise UserError(f"{path}: no pictures in it, expected one name a line")
    return samples


def every_picture(root: StrPath, folder: str, *, without: str = "test") -> list[VocSample]:
    """All pictures of a folder that have an annotation, except those of one list, sorted by name.

    Args:
        root: see `find_voc`.
        folder: such as ``VOC2012``.
        without: the list whose pictures are left out, where the folder has it.

    Raises:
        UserError: there is no such folder, or no picture in it.
    """
    folders = find_voc(root)
    if folder not in folders:
        raise UserError(f"{Path(root)}: no folder {folder!r}, expected one of {', '.join(folders)}")
    listed = folders[folder] / "ImageSets" / "Main" / f"{without}.txt"
    left_out = set(listed.read_text(encoding="utf-8-sig").split()) if listed.is_file() else set()
    pictures = _pictures(folders[folder])
    samples = [_sample(folders[folder], path) for name, path in pictures.items() if name not in left_out]
    return [sample for sample in samples if sample.annotation.is_file()]


def _pictures(folder: Path) -> dict[str, Path]:
    """Pictures by name, sorted."""
    images = folder / "JPEGImages"
    found = {p.stem: p for p in sorted(images.iterdir()) if p.suffix.lower() in PICTURES}
    if not found:
        raise UserError(f"{images}: no pictures in it, expected .jpg or .png files")
    return found


def _sample(folder: Path, picture: Path) -> VocSample:
    return VocSample(picture, folder / "Annotations" / f"{picture.stem}.xml")


def _without_lists(folder: Path, pictures: Mapping[str, Path], split: str) -> list[VocSample]:
    kept = {"train": (False,), "val": (True,), "test": (True,), "trainval": (False, True)}
    if split not in kept:
        raise UserError(
            f"{folder}: image set {split!r} needs ImageSets/Main/{split}.txt; without lists there are "
            f"{', '.join(kept)}"
        )
    samples = [_sample(folder, picture) for picture in pictures.values()]
    last = KEPT_FOR_VALIDATION - 1
    # Of fewer pictures the last one, so that validation has one.
    held = {place for place in range(len(samples)) if place % KEPT_FOR_VALIDATION == last} or {
        len(samples) - 1
    }
    return [sample for place, sample in enumerate(samples) if (place in held) in kept[split]]


# ------------------------------------------------------------------------------------------------- objects


def read_objects(path: StrPath, classes: Sequence[str], *, empty_boxes: str = "error") -> VocObjects:
    """Read the file about a picture's objects.

    Args:
        path: the XML file.
        classes: names of the classes, K; label k is the k-th, from 1.
        empty_boxes: of boxes without an area: ``error``, or ``drop`` them.

    Raises:
        UserError: the file is missing or broken, a class is unknown, or a box is empty or beside the picture.
    """
    file, root = Path(path), _parsed(Path(path))
    width, height = (_number(root, f"size/{side}", file) for side in ("width", "height"))
    if min(width, height) < 1:
        raise UserError(f"{file}: size is {width:g}x{height:g}, expected the picture's width and height")
    labels, boxes, difficult = [], [], []
    for number, item in enumerate(root.iter("object"), 1):
        where = f"{file}, object {number}"
        name = (item.findtext("name") or "").strip()
        if name not in classes:
            raise UserError(f"{where}: class {name!r} is unknown, {did_you_mean(name, classes)}")
        box = [_number(item, f"bndbox/{corner}", where) for corner in _CORNERS]
        if not (box[0] < box[2] and box[1] < box[3]):
            if empty_boxes == "drop":
                continue
            raise UserError(
                f"{where}: the box of {name!r} is {_told(box)}, expected xmin < xmax, ymin < ymax"
            )
        if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
            raise UserError(
                f"{where}: the box of {name!r} is {_told(box)}, expected one in the picture of "
                f"{width:g}x{height:g}"
            )
        labels.append(list(classes).index(name) + 1)
        boxes.append(box)
        difficult.append((item.findtext("difficult") or "0").strip() not in ("", "0"))
    return VocObjects(
        labels=np.array(labels, np.int64),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        difficult=np.array(difficult, bool),
        height=int(height),
        width=int(width),
    )


def _parsed(file: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(file).getroot()
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such annotation, expected one for the picture of this name") from error
    except (OSError, ElementTree.ParseError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as an annotation in XML ({error})") from error


def _number(element: ElementTree.Element, path: str, where: Path | str) -> float:
    text = element.findtext(path)
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise UserError(f"{where}: {path} is {text!r}, expected a number")
    return value


def _told(box: Iterable[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in box)})"


def check_objects(
    samples: Sequence[VocSample], classes: Sequence[str], *, empty_boxes: str = "error"
) -> dict[str, int]:
    """Read the annotations of all samples.

    Returns:
        How many objects each class has, by name; those without any included.

    Raises:
        UserError: see `read_objects`.
    """
    counts = np.zeros(len(classes) + 1, np.int64)
    for sample in samples:
        found = read_objects(sample.annotation, classes, empty_boxes=empty_boxes)
        counts += np.bincount(found.labels, minlength=len(counts))
    return dict(zip(classes, counts[1:].tolist(), strict=True))


def collect_classes(samples: Iterable[VocSample]) -> tuple[str, ...]:
    """Names of all classes that occur in the annotations, sorted: the classes of one's own data.

    Raises:
        UserError: an annotation is missing or broken, or there is no object at all.
    """
    files = [sample.annotation for sample in samples]
    names = sorted({name for file in files for name in _names(file)})
    if not names:
        raise UserError(f"{files[0].parent if files else 'Annotations'}: no object in any annotation")
    return tuple(names)


def _names(file: Path) -> Iterator[str]:
    for number, item in enumerate(_parsed(file).iter("object"), 1):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise UserError(f"{file}, object {number}: has no name, expected that of its class")
        yield name


def read_class_names(path: StrPath) -> tuple[str, ...]:
    """Read names of classes from a file, one a line.

    Raises:
        UserError: the file is missing, empty, or has a name twice.
    """
    file = Path(path)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as a list of class names ({error})") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names or len(set(names)) < len(names):
        raise UserError(f"{file}: {len(names)} names of {len(set(names))} classes, expected each once")
    return names
