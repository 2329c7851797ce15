"""Pictures on the way to a classifier: the published recipes of CIFAR-10 and ILSVRC-12.

Small pictures are padded, cropped at random and mirrored (`pad_crop_flip`, and many at once
`pad_crop_flip_batch`). Larger ones lose all but a random window, whose area and proportions vary, in training
(`distorted_crop`); in evaluation their shorter side is scaled to a fixed length, and the middle is cut out
(`central_crop`). Sizes are changed as TensorFlow 1 changes them unless another way is asked for.

Random numbers come from Python's generator in a fixed order that is part of a transform's definition; each
transform has a part that draws and one that is handed what was drawn. ``rng`` is anything with Python's
``random()`` and ``randint(low, high)``, by default the module `random`, which loaders seed for every sample.
"""

# B batch, N pictures of a set, H, W the picture's size, S side of what the network takes

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from prunelab.errors import UserError
from prunelab.transforms.paired import Rng
from prunelab.transforms.resize import resize_bilinear_tf1

PADDING = 4
"""Pixels around a small picture, out of which a random crop is taken."""
SHORTER, SIDE = 256, 224
"""Length that the shorter side of a large picture is scaled to in evaluation, and side of the crop."""
ATTEMPTS = 100
"""Tries to find a random window; then the whole picture is taken."""

Resample = Callable[[np.ndarray, int, int], np.ndarray]
"""Picture (H, W, 3), height h and width w to a picture (h, w, 3) float32."""


@dataclass(frozen=True, kw_only=True)
class Colours:
    """What the values of a picture's pixels become: ``(value / scale - mean) / std``."""

    mean: tuple[float, ...]
    """Of red, green, blue, after the division by `scale`."""
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Of red, green, blue, after the division by `scale`."""
    scale: float = 1.0
    """255: values lie in 0 to 1 before the mean is subtracted."""
    black_border: bool = False
    """Whether padding is black, and normalised as a pixel is; else it is zero after normalisation."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Normalise a picture, (H, W, 3) of values 0 to 255 to float32 of the same shape."""
        values = np.array(image, np.float32)
        if self.scale != 1:
            values /= np.float32(self.scale)
        values -= np.array(self.mean, np.float32)
        if self.std != (1.0, 1.0, 1.0):
            values /= np.array(self.std, np.float32)
        return values

    def table(self) -> np.ndarray:
        """What each of the 256 values of a byte becomes, (3, 256) float32."""
        grey = np.arange(256, dtype=np.float32)[:, None].repeat(3, axis=1)
        return np.ascontiguousarray(self(grey).T)

    def border(self) -> np.ndarray:
        """What padding becomes, (3,) float32."""
        return self(np.zeros(3)) if self.black_border else np.zeros(3, np.float32)


CIFAR = Colours(mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7))
"""CIFAR-10's own mean and deviation; padding is added after normalisation."""
ILSVRC = Colours(mean=(123.68, 116.78, 103.94))
"""The mean of ILSVRC-12 is subtracted; nothing is divided by."""
IMAGENET = Colours(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), scale=255.0, black_border=True)
"""As torchvision's classifiers, and many others trained with PyTorch, take pictures."""


class Shift(NamedTuple):
    """What is drawn for a small picture."""

    top: int
    """First row of the crop, counted in the padded picture."""
    left: int
    """First column of it."""
    flip: bool
    """Whether the crop is mirrored."""


def draw_shift(rng: Rng = random, padding: int = PADDING) -> Shift:
    """Draw the place of a crop (row, then column), then whether it is mirrored."""
    return Shift(rng.randint(0, 2 * padding), rng.randint(0, 2 * padding), rng.random() < 0.5)


def pad_crop_flip(
    image: np.ndarray, shift: Shift, colours: Colours = CIFAR, *, padding: int = PADDING
) -> np.ndarray:
    """Normalise a picture, pad it, cut out a crop of its own size, and mirror that.

    Args:
        image: (H, W, 3) of values 0 to 255.
        shift: what was drawn.
        colours: normalisation, and the colour of padding.
        padding: pixels on each side.

    Returns:
        (3, H, W) float32.
    """
    height, width, _ = image.shape
    padded = np.empty((height + 2 * padding, width + 2 * padding, 3), np.float32)
    padded[:] = colours.border()
    padded[padding : padding + height, padding : padding + width] = colours(image)
    crop = padded[shift.top : shift.top + height, shift.left : shift.left + width]
    return np.ascontiguousarray((crop[:, ::-1] if shift.flip else crop).transpose(2, 0, 1))


def pad_crop_flip_batch(
    images: np.ndarray,
    places: Sequence[int] | np.ndarray,
    shifts: Sequence[Shift],
    colours: Colours = CIFAR,
    *,
    padding: int = PADDING,
) -> np.ndarray:
    """Do `pad_crop_flip` to many pictures of a set at once, with the same result bit for bit.

    Args:
        images: the set, (N, H, W, 3) uint8.
        places: which of its pictures, (B,).
        shifts: what was drawn for each, (B,).
        colours: normalisation, and the colour of padding.
        padding: pixels on each side.

    Returns:
        (B, 3, H, W) float32.
    """
    from prunelab.transforms import kernels

    height, width = images.shape[1:3]
    wanted = np.asarray(places, np.int64)
    if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(images):
        raise IndexError(f"places {wanted.min()} to {wanted.max()} of {len(images)} pictures")
    tops, lefts, flips = np.asarray(shifts, np.int64).reshape(-1, 3).T.copy()
    out = np.empty((len(wanted), 3, height, width), np.float32)
    kernels.shifted_thumbnails(
        images, wanted, tops - padding, lefts - padding, flips, colours.table(), colours.border(), out
    )
    return out


def normalised_batch(images: np.ndarray, places: Sequence[int] | np.ndarray, colours: Colours) -> np.ndarray:
    """Normalise pictures of a set as they are, (N, H, W, 3) uint8 to (B, 3, H, W) float32."""
    return pad_crop_flip_batch(images, places, [Shift(0, 0, False)] * len(places), colours, padding=0)


class Window(NamedTuple):
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


def _window_height(height: int, width: int, ratio: float, area: tuple[float, float], rng: Rng) -> int:
    """A height such that the window's area lies within bounds, or else the largest that fits."""
    low, high = (round(math.sqrt(share * height * width / ratio)) for share in area)
    # the largest whose rounded width still fits
    high = min(high, height, math.ceil((width + 0.5) / ratio) - 1)
    return rng.randint(low, high) if low < high else high


def draw_window(
    height: int,
    width: int,
    rng: Rng = random,
    *,
    covered: float = 0.1,
    ratio: tuple[float, float] = (0.75, 1.33),
    area: tuple[float, float] = (0.05, 1.0),
    attempts: int = ATTEMPTS,
) -> Window:
    """Draw a window of random proportions, size and place: TensorFlow's distorted bounding box.

    Each try draws width / height, the height, the row and the column (the last three only where there is a
    choice). The object is the whole picture, so a window must cover that much of it.

    Args:
        height: H.
        width: W.
        rng: random numbers.
        covered: least share of the object, here of the picture, in the window.
        ratio: least and largest width / height.
        area: least and largest share of the picture's area.
        attempts: tries; then the window is the whole picture.
    """
    least, most = (share * height * width for share in (max(area[0], covered), area[1]))
    for _ in range(attempts):
        proportion = ratio[0] + (ratio[1] - ratio[0]) * rng.random()
        tall = _window_height(height, width, proportion, area, rng)
        wide = round(tall * proportion)
        if 0 < tall <= height and 0 < wide <= width and least <= tall * wide <= most:
            top = rng.randint(0, height - tall) if tall < height else 0
            left = rng.randint(0, width - wide) if wide < width else 0
            return Window(top, left, tall, wide)
    return Window(0, 0, height, width)


def distorted_crop(
    image: np.ndarray,
    window: Window,
    flip: bool,
    side: int = SIDE,
    resample: Resample = resize_bilinear_tf1,
) -> np.ndarray:
    """Cut out a window, mirror it, and resize it to a square.

    Args:
        image: (H, W, 3) uint8.
        window: see `draw_window`.
        flip: whether it is mirrored, which comes before the resize.
        side: S.
        resample: how sizes are changed.

    Returns:
        (S, S, 3) float32, values 0 to 255.
    """
    top, left, height, width = window
    part = image[top : top + height, left : left + width]
    return resample(part[:, ::-1] if flip else part, side, side)


def scaled_size(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Size of a picture after its shorter side became ``shorter``; the longer one is rounded down."""
    least = min(height, width)
    return height * shorter // least, width * shorter // least


def central_crop(
    image: np.ndarray, shorter: int = SHORTER, side: int = SIDE, resample: Resample = resize_bilinear_tf1
) -> np.ndarray:
    """Scale a picture's shorter side to a length, and cut out its middle (rounded down).

    Args:
        image: (H, W, 3) uint8.
        shorter: the length; at least ``side``.
        side: S.
        resample: how sizes are changed.

    Returns:
        (S, S, 3) float32, values 0 to 255.

    Raises:
        UserError: nothing of that size can be cut out.
    """
    if side > shorter:
        raise UserError(f"a crop of {side} pixels does not fit a shorter side of {shorter}")
    height, width = scaled_size(image.shape[0], image.shape[1], shorter)
    scaled = resample(image, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return scaled[top : top + side, left : left + side]


def smooth_resize(filter_name: str) -> Resample:
    """Pillow's way to change sizes, which smooths before it makes smaller, as torchvision's and timm's does.

    Args:
        filter_name: ``bilinear`` or ``bicubic``.
    """
    kind = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[filter_name]

    def resample(image: np.ndarray, height: int, width: int) -> np.ndarray:
        picture = Image.fromarray(np.ascontiguousarray(image))
        return np.asarray(picture.resize((width, height), kind), np.float32)

    return resample
