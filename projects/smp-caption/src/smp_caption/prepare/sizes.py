"""Widths and heights of pictures as a table, so that pictures need not be opened."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from prunelab.data.coco import field
from prunelab.errors import UserError
from prunelab.util import atomic_write, read_json

SUFFIX = "_sizes.csv"
"""What the table's name ends in."""
HEADINGS = ["image_id", "width", "height"]


class Size(NamedTuple):
    """A picture's extent in pixels."""

    width: int
    height: int


def read_sizes(path: Path) -> dict[int, Size]:
    """Read a table: ``image_id,width,height`` as `write_sizes` writes it, or COCO's JSON.

    In a JSON file the pictures are in ``images`` and have ``width``, ``height`` and ``id`` (or ``cocoid``).

    Raises:
        UserError: the file is missing or of another form.
    """
    if path.suffix == ".json":
        return _of_json(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}), expected a table of widths and heights"
        ) from error
    if not rows or rows[0] != HEADINGS:
        raise UserError(f"{path}: begins with {rows[:1]}, expected {','.join(HEADINGS)}")
    try:
        return {int(image_id): Size(int(width), int(height)) for image_id, width, height in rows[1:]}
    except ValueError as error:
        raise UserError(f"{path}: expected three whole numbers a line ({error})") from error


def _of_json(path: Path) -> dict[int, Size]:
    data = read_json(path)
    images = field(data, "images", list, str(path))
    sizes = {}
    for number, image in enumerate(images):
        where = f"{path}: image {number}"
        name = "cocoid" if isinstance(image, Mapping) and "cocoid" in image else "id"
        width, height = (field(image, side, int, where) for side in ("width", "height"))
        sizes[field(image, name, int, where)] = Size(width, height)
    return sizes


def write_sizes(path: Path, sizes: Mapping[int, Size]) -> None:
    """Write the table, sorted by id."""
    with atomic_write(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADINGS)
        writer.writerows((image_id, *size) for image_id, size in sorted(sizes.items()))
