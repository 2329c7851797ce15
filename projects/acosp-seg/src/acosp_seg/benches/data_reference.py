"""The plain way to make a training sample: every transform on the whole picture, then the crop."""

from __future__ import annotations

import random

import numpy as np
from torch import Tensor

from prunelab.transforms import (
    Compose,
    Crop,
    Normalize,
    RandomGaussianBlur,
    RandomHorizontalFlip,
    RandRotate,
    RandScale,
    ToTensor,
)


def sample_plain(
    image: np.ndarray,
    label: np.ndarray,
    rng: random.Random,
    *,
    scale: tuple[float, float],
    rotate: tuple[float, float],
    crop: tuple[int, int],
    ignore_label: int = 255,
) -> tuple[Tensor, Tensor]:
    """Make a sample from a decoded picture.

    Args:
        image: (H, W, 3) uint8.
        label: (H, W) uint8.
        rng: where random numbers come from.
        scale: smallest and largest factor.
        rotate: smallest and largest angle in degrees.
        crop: height h and width w of the sample.
        ignore_label: label of padding.

    Returns:
        Picture (3, h, w), normalised, and label map (h, w).
    """
    steps = [
        RandScale(scale=scale),
        RandRotate(rotate=rotate, ignore_label=ignore_label),
        RandomGaussianBlur(),
        RandomHorizontalFlip(),
        Crop(size=crop, type="rand", ignore_label=ignore_label),
        ToTensor(),
        Normalize(),
    ]
    return Compose(transforms=steps)(image.astype(np.float32), label, rng)
