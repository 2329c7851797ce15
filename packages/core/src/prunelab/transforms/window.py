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
    STD,
    Crop,
    RandomGaussianBlur,
    RandomHorizontalFlip,
    RandRotate,
    RandScale,
    Rng,
)


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
    height, width = box.shape
    out = np.empty((height, 3 * width), np.float32)
    rows = _linear_taps(image.shape[0], scale, box.top, box.bottom)
    columns = _linear_taps(image.shape[1], scale, box.left, box.right)
    # (H, W, 3) to (H, W * 3)
    kernels.linear(np.ascontiguousarray(image).reshape(len(image), -1), *rows, *columns, out)
    return out.reshape(height, width, 3)


def _nearest_taps(length: int, scale: float, start: int, end: int) -> np.ndarray:
    """The source pixel of each output pixel from ``start`` to ``end``."""
    return np.minimum(np.floor(np.arange(start, end) * (1 / scale)).astype(np.int64), length - 1)


def resize_nearest(label: np.ndarray, scale: float, box: Box) -> np.ndarray:
    """A part of what OpenCV's nearest resize by a factor makes of a label map.

    Args:
        label: (H, W).
        scale: the factor.
        box: which part of the scaled label map.

    Returns:
        (h, w), of the same type.
    """
    from prunelab.transforms import kernels

    scale = _real_scale(label, scale)
    rows = _nearest_taps(label.shape[0], scale, box.top, box.bottom)
    columns = _nearest_taps(label.shape[1], scale, box.left, box.right)
    out = np.empty(box.shape, label.dtype)
    kernels.nearest(np.ascontiguousarray(label), rows, columns, out)
    return out


def normalised(image: np.ndarray, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> np.ndarray:
    """What `ToTensor` and `Normalize` make of a picture, in one go.

    Args:
        image: (h, w, 3) float32.
        mean: of each colour.
        std: of each colour.

    Returns:
        (3, h, w) float32.
    """
    from prunelab.transforms import kernels

    out = np.empty((3, *image.shape[:2]), np.float32)
    kernels.planes(
        np.ascontiguousarray(image), np.asarray(mean, np.float32), np.asarray(std, np.float32), out
    )
    return out


def _turned_places(drawn: Draw, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where the pixels of a part of the turned picture come from: OpenCV's map, in fixed point.

    Places are sums of what rows and columns add, each rounded on its own, as for the whole picture.

    Returns:
        What rows add to x (h,), columns to x (w,), rows to y (h,), columns to y (w,): int32.
    """
    import cv2

    from prunelab.transforms.kernels import BITS

    def fixed(values: np.ndarray) -> np.ndarray:
        return np.rint(values * (1 << BITS)).astype(np.int32)

    matrix = cv2.getRotationMatrix2D((drawn.width / 2, drawn.height / 2), drawn.angle or 0.0, 1)
    (a, b, c), (d, e, f) = matrix.tolist()
    factor = 1 / (a * e - b * d)  # backwards, in the order in which OpenCV rounds
    a, b, d, e = e * factor, -b * factor, -d * factor, a * factor
    c, f = -a * c - b * f, -d * c - e * f
    x = np.arange(box.left, box.right, dtype=np.float64)
    y = np.arange(box.top, box.bottom, dtype=np.float64)
    return fixed(b * y + c), fixed(a * x), fixed(e * y + f), fixed(d * x)


def _seen(rows: np.ndarray, columns: np.ndarray) -> tuple[int, int]:
    """The first pixel that a linear mix at these places looks at, and the one after the last."""
    from prunelab.transforms.kernels import BITS, FINE

    half = 1 << (BITS - FINE - 1)
    # Sums are smallest and largest where both parts are.
    first, last = (int(end(rows)) + int(end(columns)) + half for end in (np.min, np.max))
    return first >> BITS, (last >> BITS) + 2


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
        if max(label.size, drawn.height * drawn.width) <= self.size[0] * self.size[1]:
            return self._whole(image, label, drawn)
        crop = self.steps[-1]
        above, _, before, _ = crop.pads(drawn.height, drawn.width)
        top, left = drawn.top - above, drawn.left - before
        box = Box(top, top + self.size[0], left, left + self.size[1])
        seen = box.grown(0, drawn.height, drawn.width)  # the rest is padding
        source = seen
        if drawn.flip:
            source = Box(seen.top, seen.bottom, drawn.width - seen.right, drawn.width - seen.left)
        pixels, labels = self._pixels(image, drawn, source), self._labels(label, drawn, source)
        if drawn.flip:
            pixels, labels = cv2.flip(pixels, 1), cv2.flip(labels, 1)
        if seen == box:
            return pixels, labels
        around = (seen.top - box.top, box.bottom - seen.bottom, seen.left - box.left, box.right - seen.right)
        return crop.pad(pixels, labels, around)

    def _whole(self, image: np.ndarray, label: np.ndarray, drawn: Draw) -> tuple[np.ndarray, np.ndarray]:
        """Go the long way, which is the faster one where no picture on it is larger than the crop."""
        scale, rotate, blur, flip, crop = self.steps
        pair = scale.apply(image.astype(np.float32), label, drawn.scale, drawn.scale)
        pair = flip.apply(*blur.apply(*rotate.apply(*pair, drawn.angle), drawn.blur), drawn.flip)
        return crop.apply(*pair, drawn.top, drawn.left)

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

        from prunelab.transforms import kernels

        if drawn.angle is None:
            return resize_linear(image, drawn.scale, box)
        x_rows, x_columns, y_rows, y_columns = _turned_places(drawn, box)
        part = Box(*_seen(y_rows, y_columns), *_seen(x_rows, x_columns)).grown(0, drawn.height, drawn.width)
        colour = tuple(self.padding)
        if part.empty:
            return np.full((*box.shape, 3), np.array(colour, np.float32))
        places, weights = np.empty((*box.shape, 2), np.int16), np.empty(box.shape, np.uint16)
        kernels.turned_places(x_rows, x_columns, y_rows, y_columns, part.top, part.left, places, weights)
        pixels = resize_linear(image, drawn.scale, part)
        constant = cv2.BORDER_CONSTANT
        return cv2.remap(pixels, places, weights, cv2.INTER_LINEAR, borderMode=constant, borderValue=colour)

    def _labels(self, label: np.ndarray, drawn: Draw, box: Box) -> np.ndarray:
        """A part of the scaled and turned label map."""
        from prunelab.transforms import kernels

        if drawn.angle is None:
            return resize_nearest(label, drawn.scale, box)
        scale, out = _real_scale(label, drawn.scale), np.empty(box.shape, label.dtype)
        rows = _nearest_taps(label.shape[0], scale, 0, drawn.height)
        columns = _nearest_taps(label.shape[1], scale, 0, drawn.width)
        void = label.dtype.type(self.ignore_label)
        kernels.turned_nearest(
            np.ascontiguousarray(label), rows, columns, *_turned_places(drawn, box), void, out
        )
        return out
