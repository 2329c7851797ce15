"""Regions of a picture and their features, from the pixels alone: a detector for simple pictures.

It finds what stands out from an even ground. It works the same on the embedded pictures and on any other one,
so a model that was trained on the embedded set can be tried on a picture of one's own.
"""

# H height, W width, n regions, S shapes, D statistics of a region, F size of a feature

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from prunelab.data.synthetic.shape_drawing import COLOURS, SHAPES, cover

MOST = 8
"""At most so many regions are kept, besides the whole picture."""

_SIDE = 96
_CELLS = 7
_SAMPLES = (np.arange(3 * _CELLS) + 0.5) / (3 * _CELLS)
_BUMPS = 4


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


def _components(mask: np.ndarray, most: int) -> list[np.ndarray]:
    """The largest connected parts of a mask (H, W), by sideways and up-and-down neighbours, largest first."""
    steps = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = (v.tolist() for v in np.nonzero(steps == 1))  # runs of pixels, row by row
    ends = np.nonzero(steps == -1)[1].tolist()
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    for run, row in enumerate(rows):
        above = run - 1
        while above >= 0 and rows[above] >= row - 1:
            if rows[above] < row and starts[above] < ends[run] and starts[run] < ends[above]:
                parent[root(run)] = root(above)
            above -= 1
    members: dict[int, list[int]] = {}
    for run in range(len(rows)):
        members.setdefault(root(run), []).append(run)
    sizes = {name: sum(ends[run] - starts[run] for run in runs) for name, runs in members.items()}
    parts = []
    for name in sorted(members, key=lambda name: -sizes[name])[:most]:
        part = np.zeros_like(mask)
        for run in members[name]:
            part[rows[run], starts[run] : ends[run]] = True
        parts.append(part)
    return parts


@cache
def _forms() -> np.ndarray:
    """What the shapes look like, (S, 50): the mean of `_form` over sizes and angles."""
    forms = []
    for shape in SHAPES:
        seen = []
        for radius in (0.1, 0.15, 0.22):
            for lean in (-0.18, -0.09, 0.0, 0.09, 0.18):
                turn = float(np.sqrt(1 - lean * lean))
                part = _smooth(cover(shape, (0.5, 0.5), radius, (turn, lean), 72)) > 0.5
                seen.append(_form(part, _box(part)))
        forms.append(np.mean(seen, axis=0))
    return np.stack(forms)


def _box(part: np.ndarray) -> np.ndarray:
    """The box of a mask: left, top, right, bottom, the last two outside."""
    rows, columns = np.nonzero(part)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def _form(part: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What lies in a box (left, top, right, bottom): 7 x 7 cells in [0, 1] and its proportions, (50,)."""
    left, top, right, bottom = (int(v) for v in box)
    # Each cell is the mean of 3 x 3 samples, so that boxes of every size give the same number of cells.
    rows = top + (_SAMPLES * (bottom - top)).astype(int)
    columns = left + (_SAMPLES * (right - left)).astype(int)
    cells = part[np.ix_(rows, columns)].reshape(_CELLS, 3, _CELLS, 3).mean(axis=(1, 3))  # -> (7, 7)
    return np.append(cells.ravel(), 3.0 * np.log((right - left) / (bottom - top)))


def _shares(scores: np.ndarray) -> np.ndarray:
    """Softmax."""
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def _statistics(pixels: np.ndarray, distance: np.ndarray, part: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What is measured of a region, (D,): likeness to each shape and colour, extent, place, colour.

    Args:
        pixels: (H, W, 3).
        distance: how far each pixel's colour is from the ground's, (H, W).
        part: the region's pixels, (H, W).
        box: its box in pixels.
    """
    height, width = part.shape
    weights = part * distance**2  # the middle counts more than the edge, whose colour is mixed
    total = weights.sum() + 1e-9
    colour = (pixels * weights[:, :, None]).sum(axis=(0, 1)) / total
    clear = min(
        1.0, 2.0 * float((part * distance).sum() / (part.sum() + 1e-9))
    )  # faint patterns are no objects
    palette = np.array(list(COLOURS.values()))
    unlike = colour / (colour.max() + 1e-6) - palette / palette.max(axis=1, keepdims=True)
    shapes = _shares(-((_forms() - _form(part, box)) ** 2).sum(axis=1) / 1.2)
    colours = _shares(-(unlike**2).sum(axis=1) / 0.03)
    x, y = (box[0] + box[2]) / (2 * width), (box[1] + box[3]) / (2 * height)
    extent = np.sqrt((box[2] - box[0]) * (box[3] - box[1]) / (height * width)) / 2
    places = (np.arange(_BUMPS) + 0.5) / _BUMPS
    bumps = [np.exp(-(((value - places) * 5) ** 2) / 2) for value in (x, y)]
    sizes = np.exp(-(((extent - np.array([0.1, 0.15, 0.22, 0.5])) / 0.035) ** 2) / 2)
    return np.concatenate([clear * shapes, clear * colours, clear * sizes, *bumps, colour, [clear, x, y]])


@cache
def _projection(inputs: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A fixed random projection (D, F) and its offsets (F,)."""
    rng = np.random.default_rng(20210)
    return rng.standard_normal((inputs, size)), 0.3 * rng.standard_normal(size)


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
    smooth = _smooth(distance)
    standing_out = smooth > level
    boxes, found = [np.array([0, 0, width, height])], [standing_out]
    for part in _components(standing_out, MOST):
        # Smoothing has widened it: what is less than half as clear as its middle is taken off.
        part = part & (smooth > 0.5 * np.quantile(smooth[part], 0.8))
        if part.sum() >= max(9, height * width // 400):
            boxes.append(_box(part))
            found.append(part)
    described = np.stack(
        [_statistics(pixels, distance, part, box) for part, box in zip(found, boxes, strict=True)]
    )
    matrix, offsets = _projection(described.shape[1], feat_size)
    features = np.maximum(described @ matrix + offsets, 0.0).astype(np.float32)
    return (np.stack(boxes) / [width, height, width, height]).astype(np.float32), features
