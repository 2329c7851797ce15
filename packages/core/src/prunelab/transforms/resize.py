"""The bilinear resize of TensorFlow 1, which pictures of published TensorFlow networks went through.

Its grid is asymmetric: output pixel i lies at input place i * (input size / output size), so the first
pixels coincide and the last ones need not; there is no shift by half a pixel and no smoothing before a
picture is made smaller. OpenCV, Pillow and torch all centre their grids and have no such mode.
"""

# H, W the picture's size, h, w the new one

from __future__ import annotations

import numpy as np

from prunelab.errors import UserError


def _taps(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of ``size`` output pixels: the first of two source pixels, and the second one's share.

    Places are in single precision, as TensorFlow computes them.
    """
    place = np.arange(size, dtype=np.float32) * (np.float32(length) / np.float32(size))
    first = np.floor(place)
    return first.astype(np.int64), place - first


def resize_bilinear_tf1(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize as ``tf.image.resize_bilinear(align_corners=False)`` of TensorFlow 1 does.

    Args:
        image: (H, W, 3) uint8 or float32.
        height: h.
        width: w.

    Returns:
        (h, w, 3) float32, neither rounded nor clipped.

    Raises:
        UserError: the new size is not positive.
        ValueError: the picture has another shape or type.
    """
    from prunelab.transforms import kernels

    if min(height, width) < 1:
        raise UserError(f"a picture cannot be resized to {height}x{width}; expected at least 1x1")
    if image.ndim != 3 or image.shape[2] != 3 or not image.size or image.dtype not in (np.uint8, np.float32):
        raise ValueError(f"picture is {image.dtype} {image.shape}; expected uint8 or float32 (H, W, 3)")
    rows, columns = _taps(image.shape[0], height), _taps(image.shape[1], width)
    # Where a side grows, its last output pixels lie beyond the last input pixel, which is then its own
    # neighbour.
    below, right = (
        int(first[-1] + 2 > n) for (first, _), n in zip((rows, columns), image.shape, strict=False)
    )
    if below or right:
        image = np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")
    out = np.empty((height, 3 * width), np.float32)
    # (H, W, 3) to (H, W * 3)
    kernels.linear(np.ascontiguousarray(image).reshape(len(image), -1), *rows, *columns, out)
    return out.reshape(height, width, 3)
