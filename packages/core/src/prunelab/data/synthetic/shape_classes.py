"""The embedded classification set: pictures of ten shapes, laid out as CIFAR-10 or as ILSVRC-12 is.

A folder looks like one of these, and the real readers read it::

    cifar-10-batches-bin/data_batch_1.bin, ..., test_batch.bin      binary records of 32x32 pictures
    train/circle/000000.JPEG, ..., val/circle/000000.JPEG, ...      pictures of several sizes by class

The largest shape of a picture is its class; a smaller one of another shape may lie beside it. Colours, sizes
and places say nothing of the class.
"""

# S side in pixels

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from prunelab.data.cifar import SIDE, CifarSplit, write_binary
from prunelab.data.synthetic.places import empty_folder
from prunelab.data.synthetic.shape_drawing import COLOURS, GROUNDS, MORE_SHAPES, SHAPES, Draws, Thing, draw
from prunelab.errors import UserError
from prunelab.seed import derive
from prunelab.util import StrPath

VERSION = 1
"""Goes up whenever the same arguments would give another set."""

CLASSES = SHAPES + MORE_SHAPES
"""Class names; picture number n shows class n % 10."""

_FIRST = {"test": 100_000, "val": 200_000, "train": 300_000}
_RADII, _SMALL_RADII = (0.19, 0.36), (0.09, 0.15)
_OTHER = 0.5  # share of pictures with a smaller shape beside the large one


def _thing(draws: Draws, shape: str, radius: float, x: float, y: float) -> Thing:
    colour = draws.pick(tuple(COLOURS))
    light = draws.uniform(0.75, 1.05)
    red, green, blue = (light * c + draws.uniform(-0.1, 0.1) for c in COLOURS[colour])
    angle = draws.uniform(-0.35, 0.35)
    turn = (round(math.cos(angle), 3), round(math.sin(angle), 3))
    return Thing(shape=shape, colour=colour, tint=(red, green, blue), x=x, y=y, radius=radius, turn=turn)


def make_picture(seed: int, number: int, *, side: int = SIDE) -> np.ndarray:
    """Make picture ``number`` of a seed; it shows class ``number % 10``.

    Args:
        seed: which set.
        number: which picture of it.
        side: S.

    Returns:
        (S, S, 3) uint8.
    """
    draws = Draws(derive(seed, "shape class", number))
    radius = draws.uniform(*_RADII)
    x, y = (draws.uniform(0.95 * radius, 1 - 0.95 * radius) for _ in range(2))
    things = [_thing(draws, CLASSES[number % len(CLASSES)], radius, x, y)]
    if draws.chance(_OTHER):
        small = draws.uniform(*_SMALL_RADII)
        # in the corner that the large one is farthest from
        corner = (small if x > 0.5 else 1 - small, small if y > 0.5 else 1 - small)
        things.append(_thing(draws, draws.pick(CLASSES), small, *corner))
    return draw(draws, things, draws.pick(GROUNDS), side)[0]


def write_classes(
    folder: StrPath,
    *,
    seed: int = 0,
    train: int = 2000,
    test: int = 500,
    side: int = SIDE,
    folders: bool = False,
) -> Path:
    """Write the set into a new or empty folder; takes about a second.

    Args:
        folder: where to.
        seed: another seed, other pictures.
        train: training pictures, a tenth of each class; a larger set begins with those of a smaller one.
        test: pictures of the split test, which is val in folders of classes.
        side: longer side of the pictures in folders of classes; binary records have 32 pixels.
        folders: write folders of classes in place of binary records.

    Returns:
        The folder.

    Raises:
        UserError: the folder holds something already, or the side does not fit the layout.
    """
    root = empty_folder(folder)
    if folders:
        for split, count in (("train", train), ("val", test)):
            _write_folders(root / split, seed, _FIRST[split], count, side)
        return root
    if side != SIDE:
        raise UserError(f"side is {side}, expected {SIDE} in binary records, or folders of classes")
    splits = (_split(seed, _FIRST[split], count) for split, count in (("train", train), ("test", test)))
    write_binary(root, *splits, classes=CLASSES)
    return root


def _split(seed: int, first: int, count: int) -> CifarSplit:
    images = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    for place in range(count):
        images[place] = make_picture(seed, first + place)
    return CifarSplit(images, np.arange(count) % len(CLASSES))


def _write_folders(folder: Path, seed: int, first: int, count: int, side: int) -> None:
    """Write a split; every second picture is wider than high, every third one higher than wide."""
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for place in range(count):
        image = make_picture(seed, first + place, side=side)
        if place % 2:
            image = image[side // 16 : side - side // 16]
        elif place % 3:
            image = image[:, side // 16 : side - side // 16]
        Image.fromarray(image).save(folder / CLASSES[place % 10] / f"{place:06d}.JPEG", quality=95)


def class_folder(number: int) -> str:
    """Name of a folder of `write_class_folders`: like a synset's of ILSVRC-12."""
    return f"n{number:08d}"


def write_class_folders(place: StrPath, *, seed: int, classes: int, count: int, side: int) -> None:
    """Write pictures into as many folders of classes as one likes, named by `class_folder`.

    To try a configuration that wants 1000 classes: the same few pictures come again and again, some of them
    wider than high.

    Args:
        place: the folder of a split.
        seed: of the pictures.
        classes: number of classes; those without a picture have no folder.
        count: pictures in all; they take turns through the classes.
        side: width of the pictures.
    """
    files = []
    for number in range(len(CLASSES)):
        image = make_picture(seed, number, side=side)[: side - (number % 3) * side // 8]
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG")
        files.append(file.getvalue())
    for number in range(count):
        folder = Path(place) / class_folder(number % classes)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06d}.JPEG").write_bytes(files[number % classes % len(files)])
