"""Random changes of a picture together with its boxes, as SSD is trained with them.

A random change is made in this order:

1. colour: brightness, then saturation, in one case of four; else saturation, then brightness; clipped;
2. expand: with probability 1/2 the picture is put at a random place on a canvas of the mean colour, 1.1 to 4
   times as wide and high;
3. patch: a part of it that overlaps every object whose centre lies in it by at least a random bound, or all;
4. flip, with probability 1/2;
5. resize, by TensorFlow 1's grid, and rounding to whole numbers.

2 and 3 are tried three times, each time on the whole picture, until a box is left that is neither too small
nor too large; if none is, nothing is cut. What is cut is decided before a pixel is touched, so that only what
is left is computed. Boxes are corners (ymin, xmin, ymax, xmax) as shares of the picture's sides. ``rng`` is
anything with Python's ``random()`` and ``randint(low, high)``.

# H, W height and width, n objects
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from prunelab.transforms.paired import Rng
from prunelab.transforms.resize import resize_bilinear_tf1

MEAN = (123.68, 116.78, 103.94)
"""Mean of ImageNet's pixels in red, green and blue, as VGG's first trainers had it."""
BRIGHTNESS = 32 / 255
"""Most that is added to or taken from pixels in 0 to 1."""
SATURATION = (0.5, 1.5)
"""Factors of saturation."""
ORDERS = 4
"""Orders of the changes of colour: brightness comes first in one of them."""
CANVAS = (1.1, 4.0)
"""Factors of width and height of the canvas."""
OVERLAPS = (-0.1, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Least overlaps of a patch with the objects in it, equally likely; the last one means the whole picture."""
PATCH = (0.3, 0.999)
"""Factors of width and height of a patch."""
ASPECTS = (0.5, 2.0)
"""Width by height of a patch."""
SIZE_TRIES, CENTRE_TRIES, OVERLAP_TRIES, ATTEMPTS = 10, 20, 50, 3
AREAS, LEAST_SIDE = (0.001, 0.9), 0.025
"""Boxes outside of these are dropped; areas and sides as shares of the picture's."""


class Boxed(NamedTuple):
    """A picture with its boxes."""

    image: np.ndarray
    """(H, W, 3) float32, 0 to 255; red, green, blue."""
    boxes: np.ndarray
    """Corners, (n, 4) float32."""
    kept: np.ndarray
    """Which of the objects that went in these are, (n,) int64."""


class Window(NamedTuple):
    """A rectangle of pixels, on the picture or beyond it."""

    top: int
    left: int
    height: int
    width: int


class Colour(NamedTuple):
    """A change of a picture's colours."""

    brightness: float
    """Added to all pixels in 0 to 1."""
    saturation: float
    """Factor of the saturation."""
    brightness_first: bool
    """Whether brightness is changed before saturation."""

    @classmethod
    def draw(cls, rng: Rng = random) -> Colour:
        """Draw a change: which order, brightness, saturation."""
        first = rng.randint(0, ORDERS - 1) == 0
        return cls(_between(rng, -BRIGHTNESS, BRIGHTNESS), _between(rng, *SATURATION), first)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Change (H, W, 3) uint8 to float32 in 0 to 1."""
        pixels = image.astype(np.float32) * np.float32(1 / 255)
        if self.brightness_first:
            pixels = saturated(pixels + np.float32(self.brightness), self.saturation)
        else:
            pixels = saturated(pixels, self.saturation) + np.float32(self.brightness)
        return pixels.clip(0.0, 1.0)


def saturated(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the saturation, as in hue, saturation and value, which is 1 at most: (H, W, 3) float32.

    The brightest colour of a pixel stays, and the others keep their proportion of distances from it.
    """
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    top = np.maximum(np.maximum(red, green), blue)
    spread = top - np.minimum(np.minimum(red, green), blue)
    # The spread may become the top itself, never more; black and what is below has no saturation.
    most = np.where(spread > 0, top / np.where(spread > 0, spread, 1), 1)
    share = np.where(top > 0, np.minimum(np.float32(factor), most), 0)[..., None]
    return top[..., None] - (top[..., None] - pixels) * share.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class SsdChange:
    """A random change of a picture and its boxes; see the module."""

    size: int
    """Height and width of what comes out."""
    third_attempt_lost: bool = False
    """Whether the third of three attempts is thrown away even where it leaves a box, as in the original; else
    only a failed one is."""

    def __call__(self, image: np.ndarray, boxes: np.ndarray, rng: Rng = random) -> Boxed:
        """Change a picture.

        Args:
            image: (H, W, 3) uint8.
            boxes: corners (n, 4).
            rng: source of randomness.
        """
        colour = Colour.draw(rng)
        whole = Window(0, 0, *image.shape[:2])
        window, found, kept = whole, boxes.astype(np.float32), np.arange(len(boxes))
        for attempt in range(ATTEMPTS if len(boxes) else 0):  # without objects nothing says what to cut
            tried, inside = sample_patch(expand(whole, rng), boxes, whole, rng)
            moved = relative(boxes[inside], whole, tried)
            fine = valid(moved)
            if fine.any():
                if not (self.third_attempt_lost and attempt == ATTEMPTS - 1):
                    window, found, kept = tried, moved[fine], inside[fine]
                break
        pixels = cut_out(image, window, colour)
        if rng.random() < 0.5:
            pixels, found = pixels[:, ::-1], flipped(found)
        pixels = resize_bilinear_tf1(np.ascontiguousarray(pixels), self.size, self.size)
        return Boxed(_to_bytes(pixels), found.astype(np.float32), kept)


def expand(picture: Window, rng: Rng = random) -> Window:
    """With probability 1/2 a canvas around a picture, in the picture's pixels; else the picture."""
    if rng.random() < 0.5:
        return picture
    factor = _between(rng, *CANVAS)
    height, width = int(picture.height * factor), int(picture.width * factor)
    left = rng.randint(0, max(width - picture.width - 1, 0))
    top = rng.randint(0, max(height - picture.height - 1, 0))
    return Window(picture.top - top, picture.left - left, height, width)


def sample_patch(
    canvas: Window, boxes: np.ndarray, picture: Window, rng: Rng = random
) -> tuple[Window, np.ndarray]:
    """Draw a patch of a canvas.

    It must hold the centre of an object, and overlap each object whose centre it holds by at least a bound
    that is drawn first. Where no such patch is found it is the whole canvas.

    Args:
        canvas: where from.
        boxes: corners (n, 4) as shares of the picture's sides, n > 0.
        picture: where it lies, in the same pixels as the canvas.
        rng: source of randomness.

    Returns:
        The patch, and which objects have their centre in it.
    """
    everything = canvas, np.arange(len(boxes))
    bound = OVERLAPS[rng.randint(0, len(OVERLAPS) - 1)]
    if bound >= 1:
        return everything
    pixels = boxes * (np.array([picture.height, picture.width] * 2)) + (picture.top, picture.left) * 2
    for _ in range(OVERLAP_TRIES):
        patch, inside = _centred(canvas, pixels, rng)
        if len(inside) and (_overlap(patch, pixels[inside]) >= bound).all():
            return patch, inside
    return everything


def _centred(canvas: Window, pixels: np.ndarray, rng: Rng) -> tuple[Window, np.ndarray]:
    """A patch that holds a centre, if twenty tries find one, and which centres it holds."""
    middle = (pixels[:, :2] + pixels[:, 2:]) / 2
    patch, inside = canvas, np.zeros(0, np.int64)
    for _ in range(CENTRE_TRIES):
        height, width = _patch_size(canvas, rng)
        left = canvas.left + rng.randint(0, canvas.width - width)
        top = canvas.top + rng.randint(0, canvas.height - height)
        patch = Window(top, left, height, width)
        within = (middle > (top, left)) & (middle < (top + height, left + width))
        inside = np.flatnonzero(within[:, 0] & within[:, 1])
        if len(inside):
            break
    return patch, inside


def _patch_size(canvas: Window, rng: Rng) -> tuple[int, int]:
    """Height and width of a patch; the last ones drawn if no proportion is right."""
    height = width = 1
    for _ in range(SIZE_TRIES):
        width = max(int(canvas.width * _between(rng, *PATCH)), 1)
        height = max(int(canvas.height * _between(rng, *PATCH)), 1)
        if ASPECTS[0] <= width / height <= ASPECTS[1]:
            break
    return height, width


def _overlap(patch: Window, pixels: np.ndarray) -> np.ndarray:
    """Intersection over union of a patch and boxes in pixels (n, 4)."""
    low = np.array([patch.top, patch.left], np.float64)
    high = low + np.array([patch.height, patch.width])
    sides = (np.minimum(high, pixels[:, 2:]) - np.maximum(low, pixels[:, :2])).clip(min=0)
    common = sides.prod(axis=1)
    return common / (patch.height * patch.width + (pixels[:, 2:] - pixels[:, :2]).prod(axis=1) - common)


def relative(boxes: np.ndarray, picture: Window, window: Window) -> np.ndarray:
    """Boxes of a picture as shares of a window's sides, clipped to it, (n, 4)."""
    places = boxes * ([picture.height, picture.width] * 2) + [picture.top, picture.left] * 2
    shares = (places - [window.top, window.left] * 2) / ([window.height, window.width] * 2)
    return shares.clip(0.0, 1.0)


def valid(boxes: np.ndarray) -> np.ndarray:
    """Which boxes are neither too small nor too large, (n,) bool."""
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = sides.prod(axis=1)
    return (areas > AREAS[0]) & (areas < AREAS[1]) & (sides > LEAST_SIDE).all(axis=1)


def flipped(boxes: np.ndarray) -> np.ndarray:
    """Boxes of a picture that is mirrored left to right."""
    return np.stack([boxes[:, 0], 1 - boxes[:, 3], boxes[:, 2], 1 - boxes[:, 1]], axis=1)


def cut_out(image: np.ndarray, window: Window, colour: Colour) -> np.ndarray:
    """A window of a picture with changed colours, the mean colour beyond it: float32 in 0 to 1.

    Args:
        image: (H, W, 3) uint8; its first pixel is at 0, 0 of the window's coordinates.
        window: what is cut out.
        colour: the change.
    """
    top, left = max(window.top, 0), max(window.left, 0)
    bottom = max(min(window.top + window.height, image.shape[0]), top)
    right = max(min(window.left + window.width, image.shape[1]), left)
    inner = colour(image[top:bottom, left:right])
    if inner.shape[:2] == (window.height, window.width):
        return inner
    out = np.empty((window.height, window.width, 3), np.float32)
    out[:] = np.array(MEAN, np.float32) / 255
    out[top - window.top : bottom - window.top, left - window.left : right - window.left] = inner
    return out


def _to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Pixels in 0 to 1 to whole numbers, as TensorFlow converts them: times 255.5 and cut; float32."""
    return np.floor((pixels * np.float32(255.5)).clip(0, 255))


def _between(rng: Rng, low: float, high: float) -> float:
    return low + (high - low) * rng.random()
