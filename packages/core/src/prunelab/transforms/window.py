"""Random training crops, of which only what they show is computed.

Scaling, turning, blurring and mirroring a whole picture, to cut a crop out of it afterwards, throws most of
the work away. `RandomCrop` makes the same draws in the same order as the `prunelab.transforms.paired`
transforms, and goes backwards from the crop: which part of the turned picture, which part of the scaled one,
which rows and columns of the file. Pixels and labels are those of the long way: resizing uses OpenCV's
formula, turning the whole picture's own map of coordinates (in 1/32 pixels), blurring two more pixels and the
picture's own border.
"""

# H, W the picture's size, h, w that of a window or crop

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from prunelab.errors import UserError
from prunelab.transforms.paired import (
    BLUR_SIZE,
    MEAN,
    Crop,
    RandomGaussianBlur,
    RandomHorizontalFlip,
    RandRotate,
    RandScale,
    Rng,
)

_BITS = 10  # fractional bits of OpenCV's coordinates
_FINE = 5  # of which so many choose the weights of a linear mix


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def empty(self) -> bool:
        """Whether nothing is in it."""
        return self.bottom <= self.top or self.right <= self.left

    def of(self, array: np.ndarray) -> np.ndarray:
        """The part of an array that lies in it, a view."""
        return array[self.top : self.bottom, self.left : self.right]

    def moved(self, down: int, right: int) -> Box:
        """The same rectangle elsewhere."""
        return Box(self.top + down, self.bottom + down, self.left + right, self.right + right)

    def grown(self, by: int, height: int, width: int) -> Box:
        """With so many more pixels on every side, as far as the picture goes."""
        return Box(
            max(self.top - by, 0),
            min(self.bottom + by, height),
            max(self.left - by, 0),
            min(self.right + by, width),
        )


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What was drawn for one sample."""

    scale: float
    """Factor of the resize."""
    angle: float | None
    """Degrees; None: the picture is not turned."""
    blur: bool
    """Whether it is blurred."""
    flip: bool
    """Whether it is mirrored."""
    height: int
    """Height of the scaled picture."""
    width: int
    """Width of the scaled picture."""
    top: int
    """First row of the crop in the scaled and padded picture."""
    left: int
    """First column."""


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Size of a picture after a resize by a factor, in OpenCV's rounding.

    Raises:
        UserError: nothing is left of it.
    """
    size = round(height * scale), round(width * scale)
    if min(size) < 1:
        raise UserError(f"a picture of {height}x{width} is too small to be scaled by {scale:g}")
    return size


def _real_scale(array: np.ndarray, scale: float) -> float:
    """The factor, or 1 where it changes the size by less than half a pixel: OpenCV copies such pictures."""
    height, width = array.shape[:2]
    return 1.0 if scaled_size(height, width, scale) == (height, width) else scale


def _linear_taps(length: int, scale: float, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """For output pixels from ``start`` to ``end``: the first of two source pixels, the second one's share."""
    import cv2

    place = (np.arange(start, end) + 0.5) * (1 / scale) - 0.5
    if not cv2.ipp.useIPP():  # OpenCV's own loops round places to single precision, Intel's do not
        place = place.astype(np.float32)
    first = np.floor(place).astype(np.int64)
    share = (place - first).astype(np.float32)
    share[first < 0] = 0
    share[first >= length - 1] = 1
    return np.clip(first, 0, length - 2), share


def resize_linear(image: np.ndarray, scale: float, box: Box) -> np.ndarray:
    """A part of what OpenCV's linear resize by a factor makes of a picture.

    Where OpenCV uses Intel's library (its builds for x86) the result is the same bit for bit; elsewhere it
    differs by single rounding errors, for values from 0 to 255 by less than 1e-4.

    Args:
        image: (H, W, 3) uint8 or float32.
        scale: the factor.
        box: which part of the scaled picture.

    Returns:
        (h, w, 3) float32.
    """
    from prunelab.transforms import kernels

    scale = _real_scale(image, scale)
    if min(image.shape[:2]) < 2:  # there is no neighbour to mix with
        image = np.pad(image, ((0, 1), (0, 1), (0, 0)), mode="edge")
    out = np.empty((*box.shape, image.shape[2]), np.float32)
    rows = _linear_taps(image.shape[0], scale, box.top, box.bottom)
    columns = _linear_taps(image.shape[1], scale, box.left, box.right)
    kernels.linear(np.ascontiguousarray(image), *rows, *columns, out)
    return out


def resize_nearest(label: np.ndarray, scale: float, box: Box) -> np.ndarray:
    """A part of what OpenCV's nearest resize by a factor makes of a label map.

    Args:
        label: (H, W).
        scale: the factor.
        box: which part of the scaled label map.

    Returns:
        (h, w), of the same type.
    """
    scale = _real_scale(label, scale)
    rows, columns = (
        np.minimum(np.floor(np.arange(start, end) * (1 / scale)).astype(np.int64), length - 1)
        for start, end, length in (
            (box.top, box.bottom, label.shape[0]),
            (box.left, box.right, label.shape[1]),
        )
    )
    first = columns[0]
    strip = label[:, first : columns[-1] + 1].take(rows, axis=0)
    return strip.take(columns - first, axis=1)


class _Turn:
    """Where the pixels of a window of the turned picture come from: OpenCV's map, in fixed point.

    Coordinates are sums of a row's and a column's part, each rounded on its own, for the whole picture.

    Args:
        height: H.
        width: W.
        angle: degrees against the clock, about the middle.
        box: the window of the turned picture.
    """

    def __init__(self, height: int, width: int, angle: float, box: Box) -> None:
        import cv2

        self.height, self.width = height, width
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
        (a, b, c), (d, e, f) = matrix.tolist()
        factor = 1 / (a * e - b * d)  # backwards, in the order in which OpenCV rounds
        a, b, d, e = e * factor, -b * factor, -d * factor, a * factor
        c, f = -a * c - b * f, -d * c - e * f
        x, y = (
            np.arange(box.left, box.right, dtype=np.float64),
            np.arange(box.top, box.bottom, dtype=np.float64),
        )
        self.x = _fixed(b * y + c), _fixed(a * x)
        self.y = _fixed(e * y + f), _fixed(d * x)

    def maps(self, linear: bool) -> tuple[Box, np.ndarray, np.ndarray]:
        """What `cv2.remap` needs.

        Args:
            linear: mix four neighbours; else take the nearest one.

        Returns:
            The part of the picture that is looked at (perhaps empty), the map (h, w, 2) int16 of x and y
            within that part, and the number of each pixel's weights (h, w) uint16, empty unless ``linear``.
        """
        shift = _BITS - _FINE if linear else _BITS
        half = 1 << (shift - 1)
        fine = _FINE if linear else 0
        # Sums are largest where both parts are, so rows and columns alone tell which part is looked at.
        ends = [
            (
                (int(rows.min()) + int(columns.min()) + half) >> _BITS,
                (int(rows.max()) + int(columns.max()) + half) >> _BITS,
            )
            for rows, columns in (self.y, self.x)
        ]
        (top, bottom), (left, right) = ends
        reach = 2 if linear else 1
        box = Box(top, bottom + reach, left, right + reach).grown(0, self.height, self.width)
        x, y = (((rows[:, None] + columns[None, :]) + half) >> shift for rows, columns in (self.x, self.y))
        places = np.empty((*x.shape, 2), np.int16)
        places[..., 0], places[..., 1] = (x >> fine) - box.left, (y >> fine) - box.top
        if not linear:
            return box, places, np.empty(0, np.uint16)
        steps = 1 << _FINE
        return box, places, ((y & (steps - 1)) * steps + (x & (steps - 1))).astype(np.uint16)


def _fixed(values: np.ndarray) -> np.ndarray:
    return np.rint(values * (1 << _BITS)).astype(np.int32)


@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """Scale, turn, blur, mirror and crop a picture with its label map, all at random."""

    scale: tuple[float, float]
    """Smallest and largest factor, above 0."""
    rotate: tuple[float, float]
    """Smallest and largest angle in degrees; every second picture is turned."""
    size: tuple[int, int]
    """Height h and width w of the crop."""
    padding: Sequence[float] = MEAN
    """Colour of what lies outside the picture."""
    ignore_label: int = 255
    """Label of what lies outside the picture."""

    def __post_init__(self) -> None:
        _ = self.steps  # making them checks the numbers

    @cached_property
    def steps(self) -> tuple[RandScale, RandRotate, RandomGaussianBlur, RandomHorizontalFlip, Crop]:
        """The transforms of whole pictures that do the same in a row."""
        around = {"padding": self.padding, "ignore_label": self.ignore_label}
        return (
            RandScale(scale=self.scale),
            RandRotate(rotate=self.rotate, **around),
            RandomGaussianBlur(),
            RandomHorizontalFlip(),
            Crop(size=self.size, type="rand", **around),
        )

    def draw(self, height: int, width: int, rng: Rng = random) -> Draw:
        """Draw all numbers for a picture of this size, in the order of `steps`."""
        scale, rotate, blur, flip, crop = self.steps
        factor, _ = scale.draw(rng)
        height, width = scaled_size(height, width, factor)
        angle, blurred, flipped = rotate.draw(rng), blur.draw(rng), flip.draw(rng)
        top, left = crop.draw(max(height, self.size[0]), max(width, self.size[1]), rng)
        return Draw(
            scale=factor,
            angle=angle,
            blur=blurred,
            flip=flipped,
            height=height,
            width=width,
            top=top,
            left=left,
        )

    def __call__(
        self, image: np.ndarray, label: np.ndarray, rng: Rng = random
    ) -> tuple[np.ndarray, np.ndarray]:
        """Make a sample.

        Args:
            image: (H, W, 3) uint8 or float32, 0 to 255.
            label: (H, W) uint8.
            rng: where random numbers come from.

        Returns:
            Picture (h, w, 3) float32, 0 to 255, and label map (h, w) uint8.
        """
        import cv2

        drawn = self.draw(*label.shape, rng=rng)
        above, _, before, _ = self.steps[-1].pads(drawn.height, drawn.width)
        top, left = drawn.top - above, drawn.left - before
        crop = Box(top, top + self.size[0], left, left + self.size[1])
        seen = crop.grown(0, drawn.height, drawn.width)  # the rest is padding
        source = seen
        if drawn.flip:
            source = Box(seen.top, seen.bottom, drawn.width - seen.right, drawn.width - seen.left)
        pixels, labels = self._pixels(image, drawn, source), self._labels(label, drawn, source)
        if drawn.flip:
            pixels, labels = cv2.flip(pixels, 1), cv2.flip(labels, 1)
        if seen == crop:
            return pixels, labels
        place = seen.moved(-top, -left)
        whole = np.full((*self.size, 3), np.array(self.padding, np.float32))
        whole_label = np.full(self.size, self.ignore_label, label.dtype)
        place.of(whole)[:], place.of(whole_label)[:] = pixels, labels
        return whole, whole_label

    def _pixels(self, image: np.ndarray, drawn: Draw, box: Box) -> np.ndarray:
        """A part of the scaled, turned and blurred picture."""
        import cv2

        if not drawn.blur:
            return self._turned(image, drawn, box)
        wide = box.grown(BLUR_SIZE // 2, drawn.height, drawn.width)
        blurred = cv2.GaussianBlur(self._turned(image, drawn, wide), (BLUR_SIZE, BLUR_SIZE), 0)
        return box.moved(-wide.top, -wide.left).of(blurred)

    def _turned(self, image: np.ndarray, drawn: Draw, box: Box) -> np.ndarray:
        """A part of the scaled and turned picture."""
        import cv2

        if drawn.angle is None:
            return resize_linear(image, drawn.scale, box)
        part, places, weights = _Turn(drawn.height, drawn.width, drawn.angle, box).maps(linear=True)
        colour = tuple(self.padding)
        if part.empty:
            return np.full((*box.shape, 3), np.array(colour, np.float32))
        pixels = resize_linear(image, drawn.scale, part)
        constant = cv2.BORDER_CONSTANT
        return cv2.remap(pixels, places, weights, cv2.INTER_LINEAR, borderMode=constant, borderValue=colour)

    def _labels(self, label: np.ndarray, drawn: Draw, box: Box) -> np.ndarray:
        """A part of the scaled and turned label map."""
        import cv2

        if drawn.angle is None:
            return resize_nearest(label, drawn.scale, box)
        part, places, none = _Turn(drawn.height, drawn.width, drawn.angle, box).maps(linear=False)
        if part.empty:
            return np.full(box.shape, self.ignore_label, label.dtype)
        found = resize_nearest(label, drawn.scale, part)
        constant, void = cv2.BORDER_CONSTANT, (self.ignore_label,)
        return cv2.remap(found, places, none, cv2.INTER_NEAREST, borderMode=constant, borderValue=void)
