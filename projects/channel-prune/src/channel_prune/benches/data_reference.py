"""The plain way to make a training batch of CIFAR-10: one picture after the other, step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


def training_batch_plain(
    images: np.ndarray, places: Sequence[int], shifts: Sequence[tuple[int, int, bool]], padding: int = 4
) -> np.ndarray:
    """Normalise, pad with zeros, crop and mirror.

    Args:
        images: the set, (N, H, W, 3) uint8.
        places: which of its pictures, (B,).
        shifts: row and column of each crop in the padded picture, and whether it is mirrored, (B,).
        padding: pixels on each side.

    Returns:
        (B, 3, H, W) float32.
    """
    height, width = images.shape[1:3]
    around = ((padding, padding), (padding, padding), (0, 0))
    made = []
    for place, (top, left, flip) in zip(places, shifts, strict=True):
        image = images[place].astype(np.float32)
        image = (image - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        image = np.pad(image, around)[top : top + height, left : left + width]
        made.append((image[:, ::-1] if flip else image).transpose(2, 0, 1))
    return np.stack(made)
