"""Detections as files, one for each class, as the original's evaluation writes them.

``results_<k>.txt`` holds the detections of class k, from 1: picture, score, xmin, ymin, xmax, ymax a line, in
pixels of the picture. A picture's name is that of its file without the ending.

# n detections
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from channel_prune.config import QuirkConfig
from prunelab.util import StrPath, atomic_write

FULL_DIGITS, ROUNDED_DIGITS = 9, 3
"""Decimals of written scores."""


def pixel_boxes(boxes: Tensor, height: int, width: int, *, off_by_one: bool) -> np.ndarray:
    """Boxes in pixels, (n, 4) float64: xmin, ymin, xmax, ymax.

    Args:
        boxes: corners (ymin, xmin, ymax, xmax) as shares of the sides, (n, 4).
        height: of the picture.
        width: of the picture.
        off_by_one: the original's way: cut to whole pixels, which are counted from 1.
    """
    shares = boxes.detach().cpu().numpy()[:, [1, 0, 3, 2]]
    sides = np.array([width, height, width, height], np.float32)
    places = shares.astype(np.float32) * sides
    return (np.trunc(places) + 1).astype(np.float64) if off_by_one else places.astype(np.float64)


def file_of_class(folder: StrPath, label: int) -> Path:
    """Where the detections of a class lie."""
    return Path(folder) / f"results_{label}.txt"


def write_detections(
    folder: StrPath,
    found: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    classes: Iterable[int],
    quirks: QuirkConfig,
) -> list[Path]:
    """Write the detections of all pictures; rows without an area are left out.

    Args:
        folder: where to; older files of these classes are replaced.
        found: for each picture's name labels (n,), scores (n,) and boxes (n, 4) of `pixel_boxes`.
        classes: labels that get a file, empty where nothing was found.
        quirks: ``score_rounding``: scores of three decimals.

    Returns:
        The files.

    Raises:
        UserError: the folder cannot be written.
    """
    digits = ROUNDED_DIGITS if quirks.score_rounding else FULL_DIGITS
    lines: dict[int, list[str]] = {label: [] for label in classes}
    for name, (labels, scores, boxes) in found.items():
        for label, score, (left, top, right, bottom) in zip(labels, scores, boxes, strict=True):
            if right > left and bottom > top:
                lines[int(label)].append(
                    f"{name} {score:.{digits}f} {left:.1f} {top:.1f} {right:.1f} {bottom:.1f}\n"
                )
    files = []
    for label, rows in lines.items():
        files.append(file_of_class(folder, label))
        with atomic_write(files[-1], "w") as file:
            file.writelines(rows)
    return files
