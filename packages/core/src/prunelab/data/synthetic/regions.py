"""Regions of a picture and their features, from the pixels alone: a detector for simple pictures.

It finds what stands out from an even ground. It works the same on the embedded pictures and on any other one,
so a model that was trained on the embedded set can be tried on a picture of one's own.
"""

# H height, W width, n regions, D statistics of a region, F size of a feature

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

MOST = 8
"""At most so many regions are kept, besides the whole picture."""

_SIDE = 96
_CELLS = 7
_STATISTICS = _CELLS * _CELLS + 3 + 3 + 3 + 6


def _pixels(image: Image.Image | np.ndarray) -> np.ndarray:
    """The picture in [0, 1], (H, W, 3), its long side at most 96 pixels."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    scale = _SIDE / max(picture.size)
    if scale < 1:
        width, height = (max(1, round(scale * length)) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BOX)
    return np.asarray(picture.convert("RGB"), np.float64) / 255.0


def _ground(pixels: np.ndarray) -> np.ndarray:
    """The plane through the pixels of the border, (H, W, 3): the colour of the ground at every place."""
    height, width, _ = pixels.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    design = np.stack([np.ones_like(x), x, y], axis=-1)  # (H, W, 3): constant, right, down
    edge = np.ones((height, width), bool)
    edge[2:-2, 2:-2] = False
    factors = np.linalg.lstsq(design[edge], pixels[edge], rcond=None)[0]
    return design @ factors


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean of each 3 x 3 neighbourhood, (H, W)."""
    padded = np.pad(values, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9.0


def _components(mask: np.ndarray) -> list[np.ndarray]:
    """The connected parts of a mask (H, W), by sideways and up-and-down neighbours, largest first."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        grown = labels.copy()
        # Each line of pixels takes the largest number of its run, by rows and by columns in turn.
        for view in (grown, grown[:, ::-1], grown.T, grown.T[:, ::-1]):
            for column in range(1, view.shape[1]):
                np.maximum(
                    view[:, column], view[:, column - 1], out=view[:, column], where=view[:, column] > 0
                )
        if np.array_equal(grown, labels):
            break
        labels = grown
    names, sizes = np.unique(labels[labels > 0], return_counts=True)
    return [labels == name for name in names[np.argsort(-sizes, kind="stable")]]


def _statistics(pixels: np.ndarray, ground: np.ndarray, weights: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What is measured of a region, (D,): its form in 7 x 7 cells, its colours, its place and extent."""
    height, width = weights.shape
    left, top, right, bottom = (int(v) for v in box)
    # Each cell is the mean of 3 x 3 samples, so that boxes of every size give the same number of cells.
    rows = top + ((np.arange(3 * _CELLS) + 0.5) * (bottom - top) / (3 * _CELLS)).astype(int)
    columns = left + ((np.arange(3 * _CELLS) + 0.5) * (right - left) / (3 * _CELLS)).astype(int)
    form = weights[np.ix_(rows, columns)].reshape(_CELLS, 3, _CELLS, 3).mean(axis=(1, 3))  # -> (7, 7)
    inside = weights[top:bottom, left:right, None]
    total = inside.sum() + 1e-6
    colour = (pixels[top:bottom, left:right] * inside).sum(axis=(0, 1)) / total
    behind = (ground[top:bottom, left:right] * inside).sum(axis=(0, 1)) / total
    share = colour / (colour.sum() + 0.1)
    x, y = (left + right) / (2 * width), (top + bottom) / (2 * height)
    w, h = (right - left) / width, (bottom - top) / height
    place = [x, y, w, h, float(np.sqrt(w * h)), total / ((right - left) * (bottom - top))]
    return np.concatenate([form.ravel() - 0.5, 2 * (colour - behind), 2 * colour - 1, 4 * share - 1, place])


@cache
def _projection(size: int) -> tuple[np.ndarray, np.ndarray]:
    """A fixed random projection (D, F) and its offsets (F,)."""
    rng = np.random.default_rng(20210)
    groups = np.repeat(
        [0.35, 1.0, 1.0, 1.5, 1.5], [_CELLS * _CELLS, 3, 3, 3, 6]
    )  # small groups must be heard too
    return rng.standard_normal((_STATISTICS, size)) * groups[:, None], rng.standard_normal(size) * 0.5


def find_regions(image: Image.Image | np.ndarray, feat_size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Find what stands out in a picture, and describe it.

    Args:
        image: a picture, or its pixels (H, W, 3) uint8.
        feat_size: F.

    Returns:
        Boxes (n, 4) float32, left, top, right, bottom relative to the picture's width and height, and
        features (n, F) float32, not negative. The first region is the whole picture, the others follow by
        size; n >= 1.
    """
    pixels = _pixels(image)
    height, width, _ = pixels.shape
    ground = _ground(pixels)
    distance = np.sqrt(((pixels - ground) ** 2).sum(axis=-1))
    edge = np.concatenate([distance[:2].ravel(), distance[-2:].ravel()])
    level = max(0.16, 1.6 * float(np.sqrt((edge**2).mean())))
    standing_out = _smooth(distance) > level
    boxes, found = [np.array([0, 0, width, height])], [standing_out]
    for part in _components(standing_out)[:MOST]:
        rows, columns = np.nonzero(part)
        if len(rows) >= max(9, height * width // 400):
            boxes.append(np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]))
            found.append(part)
    described = np.stack(
        [
            _statistics(pixels, ground, part.astype(np.float64), box)
            for part, box in zip(found, boxes, strict=True)
        ]
    )
    matrix, offsets = _projection(feat_size)
    features = np.maximum(described @ matrix + offsets, 0.0).astype(np.float32)
    return (np.stack(boxes) / [width, height, width, height]).astype(np.float32), features
