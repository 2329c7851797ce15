"""Rows of the benchmark: training samples, beside transforming whole pictures and cropping afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor

from acosp_seg.benches.data_reference import sample_plain
from prunelab.bench import Result, Row, compare
from prunelab.transforms import RandomCrop, normalised

DRAWS = 24
"""Samples of one timing: so many random numbers that every mix of transforms occurs."""
CLOSE = 1e-5
"""Largest difference of normalised pixels: 6e-4 grey levels. With Intel's library in OpenCV there is none."""

Samples: TypeAlias = list[tuple[Tensor, Tensor]]


@contextmanager
def _one_thread() -> Iterator[None]:
    """OpenCV computes with one thread, as in a loader's worker."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _picture(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture with fine noise, and a label map of patches."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    image = np.clip(smooth + rng.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)
    label = rng.integers(0, 19, (height // 32, width // 32), dtype=np.uint8)
    return image, cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)


def _equal(ours: Samples, theirs: Samples) -> bool:
    return all(
        torch.equal(label, their_label) and bool((image - their_image).abs().max() <= CLOSE)
        for (image, label), (their_image, their_label) in zip(ours, theirs, strict=True)
    )


def training_samples(
    name: str, size: tuple[int, int], scale: tuple[float, float], crop: tuple[int, int], goal: float | None
) -> Row:
    """Decoded pictures to normalised crops, at equal random numbers.

    Args:
        name: of the row.
        size: height and width of the pictures.
        scale: smallest and largest factor.
        crop: height and width of a sample.
        goal: least ratio that is wanted.
    """
    image, label = _picture(*size)
    rotate = (-10.0, 10.0)
    cut = RandomCrop(scale=scale, rotate=rotate, size=crop)

    def ours() -> Samples:
        made = (cut(image, label, random.Random(seed)) for seed in range(DRAWS))
        return [(torch.from_numpy(normalised(x)), torch.from_numpy(y.astype(np.int64))) for x, y in made]

    def reference() -> Samples:
        rngs = map(random.Random, range(DRAWS))
        return [sample_plain(image, label, rng, scale=scale, rotate=rotate, crop=crop) for rng in rngs]

    with _one_thread():
        return compare(
            name,
            ours,
            reference,
            _equal,
            warmup=2,
            work=DRAWS,
            unit="samples",
            goal=goal,
            note=f"{size[1]}x{size[0]} to a crop of {crop[1]}x{crop[0]}, scale {scale[0]:g} to {scale[1]:g}, "
            f"rotation, blur and mirroring every second time; {DRAWS} draws a timing, one thread, without "
            f"decoding; labels equal, pixels within {CLOSE:g} after normalisation",
        )


ROWS: dict[str, Callable[[], Result | list[Result]]] = {
    "samples-cityscapes": partial(
        training_samples, "training samples, Cityscapes", (1024, 2048), (0.5, 2.0), (713, 713), 4.0
    ),
    "samples-camvid": partial(
        training_samples, "training samples, CamVid", (360, 480), (0.25, 1.0), (360, 480), None
    ),
}
