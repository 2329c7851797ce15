"""Transforms of a picture together with its label map, one whole picture after the other.

They are defined by OpenCV, as the published segmentation pipelines are: pictures are resized and turned
linearly, label maps by nearest neighbours. Random transforms draw from Python's generator in a fixed order
that is part of their definition; `prunelab.transforms.window` makes the same draws and computes only what a
crop shows.

Every transform is called with (picture, label map, rng) and returns a new pair. A picture is (H, W, 3)
float32 with values 0 to 255 (until `ToTensor`), a label map (H, W) uint8; ``rng`` is anything with Python's
``random()`` and ``randint(low, high)``, by default the module `random`, which loaders seed for every sample.
"""

# H height, W width, h and w those of a crop

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from prunelab.errors import UserError

MEAN = tuple(255 * value for value in (0.485, 0.456, 0.406))
"""Mean of ImageNet's pixels, red, green, blue, in 0 to 255."""
STD = tuple(255 * value for value in (0.229, 0.224, 0.225))
"""Standard deviation of ImageNet's pixels, red, green, blue, in 0 to 255."""
BLUR_SIZE = 5
"""Side of the blur's kernel in pixels."""


class Rng(Protocol):
    """What transforms draw from: the module `random` or an instance of `random.Random`."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...

    def randint(self, a: int, b: int) -> int:
        """A whole number from ``a`` to ``b``, both included."""
        ...


class Paired(Protocol):
    """A transform of a picture with its label map."""

    def __call__(self, image: Any, label: Any, rng: Rng = ...) -> tuple[Any, Any]:
        """The changed pair."""
        ...


def check_range(name: str, values: Sequence[float], *, above_zero: bool = False) -> None:
    """Refuse what is not a lower and an upper bound.

    Raises:
        UserError: it is not.
    """
    if len(values) != 2 or not values[0] <= values[1] or (above_zero and values[0] <= 0):
        rule = "0 < min <= max" if above_zero else "min <= max"
        raise UserError(f"{name} is {list(values)}, expected two numbers with {rule}")


@dataclass(frozen=True, kw_only=True)
class Compose:
    """One transform after the other."""

    transforms: Sequence[Paired]
    """In the order in which they are applied."""

    def __call__(self, image: Any, label: Any, rng: Rng = random) -> tuple[Any, Any]:
        """Apply them all."""
        for transform in self.transforms:
            image, label = transform(image, label, rng)
        return image, label


@dataclass(frozen=True, kw_only=True)
class RandScale:
    """Resize by a random factor; one draw, two with ``aspect``."""

    scale: tuple[float, float]
    """Smallest and largest factor, above 0."""
    aspect: tuple[float, float] | None = None
    """Smallest and largest ratio of the factors for width and height; None: both are equal."""

    def __post_init__(self) -> None:
        check_range("scale", self.scale, above_zero=True)
        if self.aspect is not None:
            check_range("aspect", self.aspect, above_zero=True)

    def draw(self, rng: Rng) -> tuple[float, float]:
        """Draw the factors for width and height."""
        low, high = self.scale
        scale = low + (high - low) * rng.random()
        if self.aspect is None:
            return scale, scale
        low, high = self.aspect
        stretch = math.sqrt(low + (high - low) * rng.random())
        return scale * stretch, scale / stretch

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: Rng = random) -> tuple[Any, Any]:
        """Draw the factors and resize both."""
        return self.apply(image, label, *self.draw(rng))

    def apply(self, image: np.ndarray, label: np.ndarray, fx: float, fy: float) -> tuple[Any, Any]:
        """Resize both by these factors; the new size is OpenCV's rounding of factor times size."""
        import cv2

        return (
            cv2.resize(image, None, fx=fx, fy=fy, interpolation=cv2.INTER_LINEAR),
            cv2.resize(label, None, fx=fx, fy=fy, interpolation=cv2.INTER_NEAREST),
        )


@dataclass(frozen=True, kw_only=True)
class RandRotate:
    """Turn about the middle by a random angle, with probability ``p``; one draw, two if it turns."""

    rotate: tuple[float, float]
    """Smallest and largest angle in degrees, against the clock."""
    padding: Sequence[float] = MEAN
    """Colour of what comes into view."""
    ignore_label: int = 255
    """Label of what comes into view."""
    p: float = 0.5
    """How often it turns."""

    def __post_init__(self) -> None:
        check_range("rotate", self.rotate)

    def draw(self, rng: Rng) -> float | None:
        """Draw the angle; None where the picture is not turned."""
        if rng.random() >= self.p:
            return None
        low, high = self.rotate
        return low + (high - low) * rng.random()

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: Rng = random) -> tuple[Any, Any]:
        """Draw the angle and turn both; the size stays."""
        return self.apply(image, label, self.draw(rng))

    def apply(self, image: np.ndarray, label: np.ndarray, angle: float | None) -> tuple[Any, Any]:
        """Turn both by this angle."""
        import cv2

        if angle is None:
            return image, label
        height, width = label.shape
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
        size, constant = (width, height), cv2.BORDER_CONSTANT
        colour = tuple(self.padding)
        return (
            cv2.warpAffine(
                image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=constant, borderValue=colour
            ),
            cv2.warpAffine(
                label,
                matrix,
                size,
                flags=cv2.INTER_NEAREST,
                borderMode=constant,
                borderValue=(self.ignore_label,),
            ),
        )


@dataclass(frozen=True, kw_only=True)
class RandomGaussianBlur:
    """Blur every second picture with a kernel whose width follows from its size; one draw."""

    radius: int = BLUR_SIZE
    """Side of the kernel in pixels, odd."""

    def draw(self, rng: Rng) -> bool:
        """Draw whether the picture is blurred."""
        return rng.random() < 0.5

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: Rng = random) -> tuple[Any, Any]:
        """Draw, and blur the picture or not; the label map stays."""
        return self.apply(image, label, self.draw(rng))

    def apply(self, image: np.ndarray, label: np.ndarray, blur: bool) -> tuple[Any, Any]:
        """Blur the picture if so drawn."""
        import cv2

        return (cv2.GaussianBlur(image, (self.radius, self.radius), 0) if blur else image), label


@dataclass(frozen=True, kw_only=True)
class RandomHorizontalFlip:
    """Mirror left and right; one draw."""

    p: float = 0.5
    """How often."""

    def draw(self, rng: Rng) -> bool:
        """Draw whether the pair is mirrored."""
        return rng.random() < self.p

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: Rng = random) -> tuple[Any, Any]:
        """Draw, and mirror both or neither."""
        return self.apply(image, label, self.draw(rng))

    def apply(self, image: np.ndarray, label: np.ndarray, flip: bool) -> tuple[Any, Any]:
        """Mirror both if so drawn."""
        import cv2

        return (cv2.flip(image, 1), cv2.flip(label, 1)) if flip else (image, label)


@dataclass(frozen=True, kw_only=True)
class RandomVerticalFlip:
    """Mirror top and bottom; one draw."""

    p: float = 0.5
    """How often."""

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: Rng = random) -> tuple[Any, Any]:
        """Mirror both or neither."""
        import cv2

        return (cv2.flip(image, 0), cv2.flip(label, 0)) if rng.random() < self.p else (image, label)


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Cut out a part of fixed size, of a small picture after padding; two draws, none for ``center``."""

    size: tuple[int, int]
    """Height and width of the crop."""
    type: str = "center"
    """``rand``: anywhere; ``center``: the middle."""
    padding: Sequence[float] | None = MEAN
    """Colour of the padding; None: a picture smaller than the crop is refused."""
    ignore_label: int = 255
    """Label of the padding."""

    def __post_init__(self) -> None:
        if self.type not in {"rand", "center"}:
            raise UserError(f"crop type is {self.type!r}, expected rand or center")
        if len(self.size) != 2 or min(self.size) < 1:
            raise UserError(f"crop size is {list(self.size)}, expected height and width of 1 or more")

    def pads(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Rows and columns of padding that a picture gets: top, bottom, left, right."""
        rows, columns = max(self.size[0] - height, 0), max(self.size[1] - width, 0)
        return rows // 2, rows - rows // 2, columns // 2, columns - columns // 2

    def draw(self, height: int, width: int, rng: Rng) -> tuple[int, int]:
        """First row and column of the crop in a (padded) picture; only ``rand`` draws."""
        rows, columns = height - self.size[0], width - self.size[1]
        if self.type == "rand":
            return rng.randint(0, rows), rng.randint(0, columns)
        return rows // 2, columns // 2

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: Rng = random) -> tuple[Any, Any]:
        """Pad where needed, draw the place, and cut.

        Raises:
            UserError: the picture is smaller than the crop and there is no colour to pad with.
        """
        height, width = (max(side, least) for side, least in zip(label.shape, self.size, strict=True))
        return self.apply(image, label, *self.draw(height, width, rng))

    def apply(self, image: np.ndarray, label: np.ndarray, top: int, left: int) -> tuple[Any, Any]:
        """Pad where needed, and cut at this place of the padded picture; errors are those of a call."""
        height, width = label.shape
        if any(self.pads(height, width)):
            image, label = self.pad(image, label, self.pads(height, width))
        rows, columns = slice(top, top + self.size[0]), slice(left, left + self.size[1])
        return image[rows, columns], label[rows, columns]

    def pad(
        self, image: np.ndarray, label: np.ndarray, around: tuple[int, int, int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Put rows and columns of padding around both: top, bottom, left, right.

        Raises:
            UserError: there is no colour to pad with.
        """
        import cv2

        if self.padding is None:
            height, width = label.shape
            raise UserError(f"a picture of {height}x{width} is smaller than the crop {list(self.size)}")
        how = (*around, cv2.BORDER_CONSTANT)
        return (
            cv2.copyMakeBorder(image, *how, value=tuple(self.padding)),
            cv2.copyMakeBorder(label, *how, value=(self.ignore_label,)),
        )


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Resize to a fixed size."""

    size: tuple[int, int]
    """Height and width."""

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: Rng = random) -> tuple[Any, Any]:
        """Resize both."""
        import cv2

        size = self.size[::-1]
        return (
            cv2.resize(image, size, interpolation=cv2.INTER_LINEAR),
            cv2.resize(label, size, interpolation=cv2.INTER_NEAREST),
        )


class RGB2BGR:
    """Swap red and blue."""

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: Rng = random) -> tuple[Any, Any]:
        """Swap them; the label map stays."""
        return np.ascontiguousarray(image[:, :, ::-1]), label


BGR2RGB = RGB2BGR
"""The way back, which is the same swap."""


class ToTensor:
    """Arrays to tensors: picture (3, H, W) float32 with the same values, label map (H, W) int64."""

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: Rng = random) -> tuple[Tensor, Tensor]:
        """Convert both; the arrays' memory is not shared."""
        planes = np.array(image.transpose(2, 0, 1), np.float32, order="C")  # (3, H, W), a copy
        return torch.from_numpy(planes), torch.from_numpy(label.astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class Normalize:
    """Subtract a mean and divide by a standard deviation, plane by plane, in place."""

    mean: Sequence[float] = MEAN
    """One value a plane."""
    std: Sequence[float] | None = STD
    """One value a plane; None: only the mean is subtracted."""

    def __call__(self, image: Tensor, label: Tensor, rng: Rng = random) -> tuple[Tensor, Tensor]:
        """Normalise the picture's own tensor; the label map stays."""
        for plane, mean in zip(image, self.mean, strict=True):
            plane.sub_(mean)
        if self.std is not None:
            for plane, std in zip(image, self.std, strict=True):
                plane.div_(std)
        return image, label
