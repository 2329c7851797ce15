"""The embedded detection set: pictures of a few shapes with their boxes, laid out as Pascal VOC is.

A folder looks like this, and the real reader reads it::

    VOC2007/JPEGImages/000001.jpg, VOC2007/Annotations/000001.xml, ...
    VOC2007/ImageSets/Main/train.txt, val.txt, trainval.txt, test.txt

Objects overlap now and then; one that is mostly hidden is difficult. Pictures are of several sizes.
"""

# H height, W width, n objects

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from prunelab.data.synthetic.places import empty_folder
from prunelab.data.synthetic.shape_drawing import GROUNDS, Draws, Thing, boxes_of, cover, draw, random_thing
from prunelab.data.voc import VocObjects
from prunelab.seed import derive
from prunelab.util import StrPath

VERSION = 1
"""Goes up whenever the same arguments would give another set."""

CLASSES = ("circle", "triangle", "cross")
"""Class names; label k is the k-th, from 1."""

_FIRST = {"test": 100_000, "val": 200_000, "train": 300_000}
_RADII = (0.12, 0.26)
_SEEN = 0.4
"""Share of an object's pixels below which it is difficult."""
_LEAST = 4.0
"""Objects of which less is seen, in pixels of width or height, have no box."""


def make_picture(seed: int, number: int, *, side: int = 128) -> tuple[np.ndarray, VocObjects]:
    """Make picture ``number`` of a seed.

    Args:
        seed: which set.
        number: which picture of it.
        side: the longer one of H and W in pixels.

    Returns:
        Picture (H, W, 3) uint8 and its objects; as in Pascal VOC the first pixel is 1 and a box includes its
        last one.
    """
    draws = Draws(derive(seed, "shapes", number))
    count = 1 + draws.chance(0.65) + draws.chance(0.4)
    things: list[Thing] = []
    for radius in sorted((draws.uniform(*_RADII) for _ in range(count)), reverse=True):
        things.append(random_thing(draws, CLASSES, radius, things))
    image, seen = draw(draws, things, draws.pick(GROUNDS), side)
    whole = np.stack([cover(t.shape, (t.x, t.y), t.radius, t.turn, side) for t in things])
    cut = round(side * draws.uniform(0.0, 0.12))
    if draws.chance(0.5):
        image, seen = image[cut : side - cut], seen[:, cut : side - cut]
    else:
        image, seen = image[:, cut : side - cut], seen[:, :, cut : side - cut]
    boxes = boxes_of(seen)
    kept = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= _LEAST
    boxes[:, :2] += 1.0
    return image, VocObjects(
        labels=np.array([1 + CLASSES.index(thing.shape) for thing in things], np.int64)[kept],
        boxes=boxes[kept],
        difficult=(seen.sum((1, 2)) < _SEEN * whole.sum((1, 2)))[kept],
        height=image.shape[0],
        width=image.shape[1],
    )


def annotation(name: str, objects: VocObjects, classes: tuple[str, ...] = CLASSES) -> str:
    """The XML file about a picture's objects.

    Args:
        name: the picture's file name.
        objects: what is on it.
        classes: names of the classes.
    """
    lines = [
        "<annotation>",
        f"  <filename>{escape(name)}</filename>",
        f"  <size><width>{objects.width}</width><height>{objects.height}</height><depth>3</depth></size>",
    ]
    for label, box, difficult in zip(objects.labels, objects.boxes, objects.difficult, strict=True):
        corners = "".join(
            f"<{corner}>{value:g}</{corner}>"
            for corner, value in zip(("xmin", "ymin", "xmax", "ymax"), box.tolist(), strict=True)
        )
        lines += [
            "  <object>",
            f"    <name>{escape(classes[label - 1])}</name>",
            f"    <difficult>{int(difficult)}</difficult>",
            f"    <bndbox>{corners}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def write_voc(
    folder: StrPath, *, seed: int = 0, train: int = 200, val: int = 40, test: int = 60, side: int = 128
) -> Path:
    """Write the set into a new or empty folder; takes a second or two.

    Args:
        folder: where to.
        seed: another seed, other pictures.
        train: pictures of the split train; a larger set begins with those of a smaller one.
        val: pictures of the split val; trainval is both.
        test: pictures of the split test.
        side: longer side of the pictures.

    Returns:
        The folder, which holds ``VOC2007``.

    Raises:
        UserError: the folder holds something already.
    """
    root = empty_folder(folder)
    voc = root / "VOC2007"
    images, annotations, lists = voc / "JPEGImages", voc / "Annotations", voc / "ImageSets" / "Main"
    for place in (images, annotations, lists):
        place.mkdir(parents=True)
    names: dict[str, list[str]] = {}
    for split, count in (("train", train), ("val", val), ("test", test)):
        names[split] = [f"{_FIRST[split] + place:06d}" for place in range(count)]
        for name in names[split]:
            image, objects = make_picture(seed, int(name), side=side)
            Image.fromarray(image).save(images / f"{name}.jpg", quality=92)
            (annotations / f"{name}.xml").write_text(annotation(f"{name}.jpg", objects), encoding="utf-8")
    names["trainval"] = sorted(names["train"] + names["val"])
    for split, listed in names.items():
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in listed), encoding="utf-8")
    return root
