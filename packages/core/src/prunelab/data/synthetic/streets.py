"""The embedded segmentation set: small street scenes with label maps, laid out as CamVid is.

A folder looks like this, and the real readers read it::

    train/000000.png, trainannot/000000.png, ...   pictures, and label maps of 8 bits; also val and test
    list/train.txt, list/val.txt, list/test.txt    ``train/000000.png trainannot/000000.png`` a line

A scene is a sky with a row of houses and trees before it, and a road towards the viewer with cars on it. The
pixels tell much but not all: the light changes, colours of houses and roads overlap, noise lies over all.
Label maps hold places in `CLASSES`, and `VOID` on the edges between classes. As in `scenes`, only sums,
products and quotients are used on pixels, so that every machine makes the same files.
"""

# H height, W width

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from prunelab.data.segmentation import Sample, write_list
from prunelab.data.synthetic.places import empty_folder
from prunelab.data.synthetic.scenes import VOID
from prunelab.data.synthetic.shape_drawing import Draws
from prunelab.seed import derive
from prunelab.util import StrPath

VERSION = 1
"""Goes up whenever the same arguments would give another set."""

CLASSES = ("sky", "building", "tree", "road", "car")
"""Class names; class c of a label map is the c-th."""

COLOURS = ((0.62, 0.74, 0.88), (0.60, 0.42, 0.34), (0.22, 0.42, 0.16), (0.40, 0.38, 0.42), (0.0, 0.0, 0.0))
"""The middle of each class's colours in [0, 1]; cars have colours of their own."""

_CARS = ((0.80, 0.12, 0.14), (0.88, 0.80, 0.20), (0.14, 0.22, 0.75), (0.85, 0.85, 0.88))
_FIRST = {"test": 100_000, "val": 200_000, "train": 300_000}
_SKY, _BUILDING, _TREE, _ROAD, _CAR = range(len(CLASSES))


def _band(x: np.ndarray, left: float, right: float) -> np.ndarray:
    return (x >= left) & (x < right)


def _row_of_houses(draws: Draws, labels: np.ndarray, horizon: float, y: np.ndarray, x: np.ndarray) -> None:
    """Houses and trees side by side from left to right, all standing on the horizon."""
    left = -draws.uniform(0.0, 0.1)
    while left < 1.0:
        right = left + draws.uniform(0.12, 0.3)
        top = horizon - draws.uniform(0.12, 0.38)
        if draws.chance(0.5):
            labels[(y >= top) & (y < horizon) & _band(x, left, right)] = _BUILDING
        elif draws.chance(0.75):
            across, down = (x - (left + right) / 2) / (right - left), (y - top) / (horizon - top) - 0.45
            crown = across * across * 5.0 + down * down * 4.0 < 1.0
            trunk = (np.abs(across) < 0.12) & (down > 0) & (y < horizon)
            labels[(crown | trunk) & (y < horizon)] = _TREE
        left = right


def _cars(draws: Draws, labels: np.ndarray, horizon: float, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Cars on the road, nearer ones lower and larger; gives their colours where they are, (H, W, 3)."""
    paint = np.zeros((*labels.shape, 3))
    places = sorted(draws.uniform(0.15, 0.85) for _ in range(1 + draws.chance(0.6) + draws.chance(0.3)))
    for near in places:
        size = 0.08 + 0.2 * near
        bottom, middle = horizon + (1.0 - horizon) * near, draws.uniform(0.2, 0.8)
        body = (y < bottom) & (y >= bottom - 0.6 * size) & (np.abs(x - middle) < 0.62 * size)
        roof = (y < bottom) & (y >= bottom - size) & (np.abs(x - middle) < 0.38 * size)
        light = draws.uniform(0.8, 1.05)
        labels[body | roof] = _CAR
        paint[body | roof] = light * np.array(draws.pick(_CARS))
    return paint


def _edges(labels: np.ndarray) -> np.ndarray:
    """Where a pixel differs from the one right of it or below it."""
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def make_street(
    seed: int, number: int, *, height: int = 48, width: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Make street scene ``number`` of a seed.

    Args:
        seed: which set.
        number: which scene of it.
        height: H.
        width: W.

    Returns:
        Picture (H, W, 3) uint8 and label map (H, W) uint8.
    """
    draws = Draws(derive(seed, "street", number))
    y = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
    x = np.broadcast_to(((np.arange(width) + 0.5) / width)[None, :], (height, width))
    horizon = draws.uniform(0.42, 0.6)
    labels = np.full((height, width), _SKY, np.uint8)
    labels[y >= horizon] = _ROAD
    _row_of_houses(draws, labels, horizon, y, x)
    paint = _cars(draws, labels, horizon, y, x)
    tints = np.array([[c + draws.uniform(-0.07, 0.07) for c in colour] for colour in COLOURS])
    pixels = np.where((labels == _CAR)[:, :, None], paint, tints[labels])
    slope = draws.uniform(-0.2, 0.2) * (x - 0.5) + draws.uniform(-0.2, 0.2) * (y - 0.5)
    pixels = pixels * (draws.uniform(0.75, 1.1) + slope)[:, :, None]
    texture = np.array([0.02, 0.06, 0.12, 0.05, 0.04])[labels]
    pixels = (
        pixels + texture[:, :, None] * draws.array(height, width, 1) + 0.06 * draws.array(height, width, 3)
    )
    labels[_edges(labels)] = VOID
    return np.clip(np.floor(pixels * 255.0 + 0.5), 0, 255).astype(np.uint8), labels


def write(
    folder: StrPath,
    *,
    seed: int = 0,
    train: int = 240,
    val: int = 40,
    test: int = 40,
    height: int = 48,
    width: int = 64,
) -> Path:
    """Write the set into a new or empty folder; takes a second or two.

    Args:
        folder: where to.
        seed: another seed, other scenes.
        train: scenes of the split train; a larger set begins with those of a smaller one.
        val: scenes of the split val.
        test: scenes of the split test.
        height: H.
        width: W.

    Returns:
        The folder.

    Raises:
        UserError: the folder holds something already.
    """
    root = empty_folder(folder)
    for split, count in (("train", train), ("val", val), ("test", test)):
        samples = []
        for kind in (split, f"{split}annot"):
            (root / kind).mkdir(parents=True, exist_ok=True)
        for place in range(count):
            sample = Sample(root / split / f"{place:06d}.png", root / f"{split}annot" / f"{place:06d}.png")
            image, labels = make_street(seed, _FIRST[split] + place, height=height, width=width)
            Image.fromarray(image).save(sample.image)
            Image.fromarray(labels).save(sample.label)
            samples.append(sample)
        write_list(root / "list" / f"{split}.txt", samples, root)
    return root
