"""Names and colours of classes: files of one class a line, which come with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from acosp_seg.layout import resolve
from prunelab.errors import UserError


def table_file(path: str | Path = "", *, dataset: str = "", kind: str = "names") -> Path | None:
    """The file that names or colours classes.

    Args:
        path: what a configuration says: a file, or a path of the original (in ``/semseg/data`` and the like)
            whose last part names a file of the package.
        dataset: whose file is meant where ``path`` is empty.
        kind: ``names`` or ``colors``, where ``path`` is empty.

    Returns:
        A file that exists; None where ``path`` is empty and the package has none for the data set.

    Raises:
        UserError: there is no such file.
    """
    name = Path(path).name if path else f"{dataset}_{kind}.txt"
    found = resolve(path) if path else None
    if found is not None and found.is_file():
        return found
    # An installed package is a folder: its files need no copy.
    packaged = Path(str(resources.files("acosp_seg"))) / "palettes" / name.rpartition("_")[0] / name
    if packaged.is_file():
        return packaged
    if path:
        raise UserError(f"{found}: no such file, expected {kind} of classes, one a line")
    return None


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error


def read_names(file: Path) -> list[str]:
    """Class names in the order of their ids.

    Raises:
        UserError: the file cannot be read.
    """
    return _lines(file)


def read_colors(file: Path) -> np.ndarray:
    """Class colours in the order of their ids, (K, 3) uint8 of red, green, blue.

    Raises:
        UserError: the file cannot be read, or a line is not three numbers from 0 to 255.
    """
    colors = []
    for line in _lines(file):
        words = line.split()
        if len(words) != 3 or not all(word.isdecimal() and int(word) <= 255 for word in words):
            raise UserError(f"{file}: {line!r}, expected three numbers from 0 to 255 a line")
        colors.append([int(word) for word in words])
    return np.array(colors, np.uint8).reshape(-1, 3)
