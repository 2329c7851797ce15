"""Parts of many small pictures, resized and normalised at once, as Pillow would one by one.

Pillow's bilinear filter smooths where it makes smaller: it grows with the factor. It goes along rows, rounds
to bytes, then goes along columns and rounds again, in fixed point. So does this, and the bits are the same,
but that newer versions of Pillow go along columns first where there is much to shrink: then some values
differ by one level of 255.
"""

# N pictures of a set, B batch, h, w the pictures' size, H, W the size they get

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prunelab.transforms.classify import Colours, Window


def resized_crops(
    images: np.ndarray,
    places: Sequence[int] | np.ndarray,
    windows: Sequence[Window] | np.ndarray,
    flips: Sequence[bool] | np.ndarray,
    size: tuple[int, int],
    colours: Colours,
) -> np.ndarray:
    """Cut a window out of each picture, resize it with Pillow's bilinear filter, mirror and normalise it.

    Args:
        images: the set, (N, h, w, 3) uint8.
        places: which of its pictures, (B,).
        windows: top, left, height and width for each, (B, 4).
        flips: which are mirrored, (B,).
        size: H and W.
        colours: normalisation.

    Returns:
        (B, 3, H, W) float32.

    Raises:
        IndexError: there is no such picture, or a window does not lie in it.
    """
    from prunelab.transforms import kernels

    wanted, boxes = np.asarray(places, np.int64), np.asarray(windows, np.int64).reshape(-1, 4)
    if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(images):
        raise IndexError(f"places {wanted.min()} to {wanted.max()} of {len(images)} pictures")
    ends = boxes[:, :2] + boxes[:, 2:]
    if (boxes < [0, 0, 1, 1]).any() or (ends > images.shape[1:3]).any():
        raise IndexError(f"a window does not lie in a picture of {images.shape[1]}x{images.shape[2]}")
    out = np.empty((len(wanted), 3, *size), np.float32)
    mirrored = np.asarray(flips, np.bool_)
    kernels.resized_thumbnails(images, wanted, boxes, mirrored, colours.table(), out)
    return out
