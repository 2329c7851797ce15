"""Pictures with label maps: list files, pairs by name, safe reading, and a look at label values.

A list file names one sample a line: the picture's path and its label map's, relative to a root folder, parted
by one blank (or by a tab, where paths hold blanks). A label map is a PNG file of 8 bits a pixel whose values
are class ids 0 to K - 1, and one more for pixels without a class.
"""

# H height, W width, K classes

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prunelab.data.pictures import read_picture
from prunelab.errors import UserError
from prunelab.util import StrPath, atomic_write

SPLITS = ("train", "val", "test")
PICTURES = frozenset({".jpg", ".jpeg", ".png"})
"""Endings of picture files, in small letters."""

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_PNG_END, _JPEG_END = b"IEND\xaeB`\x82", b"\xff\xd9"
_GREY, _PALETTE = 0, 3  # colour types of PNG files


@dataclass(frozen=True)
class Sample:
    """A picture and its label map."""

    image: Path
    label: Path
    """The picture itself where there is no label map."""

    @property
    def has_label(self) -> bool:
        """Whether there is a label map."""
        return self.label != self.image


def read_list(path: StrPath, root: StrPath, split: str) -> list[Sample]:
    """Read a list file; whether its files exist is not looked at.

    Args:
        path: the list file.
        root: folder that its paths are relative to; absolute paths stay as they are.
        split: ``train`` or ``val``: picture and label map a line; ``test``: the picture alone.

    Raises:
        UserError: the file is missing, a line has another number of paths, or the split is unknown.
    """
    if split not in SPLITS:
        raise UserError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such list file, expected one sample a line") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a list file ({error})") from error
    wanted = 1 if split == "test" else 2
    samples = []
    for number, line in enumerate(lines, 1):
        words = line.strip().split("\t" if "\t" in line.strip() else " ")
        if len(words) != wanted or not all(words):
            what = "a picture" if split == "test" else "a picture and a label map"
            raise UserError(
                f"{path}, line {number}: {line.strip()!r} has {len(words)} parts, expected {wanted}, parted "
                f"by one blank: {what}"
            )
        # Normal joining, in which an absolute path wins.
        samples.append(Sample(*(Path(root) / word for word in (words * 2)[:2])))
    return samples


def write_list(path: StrPath, samples: Iterable[Sample], root: StrPath) -> None:
    """Write a list file of paths relative to a root folder; a tab parts those that hold a blank."""
    with atomic_write(path, "w") as file:
        for sample in samples:
            words = [Path(os.path.relpath(p, root)).as_posix() for p in (sample.image, sample.label)]
            file.write(("\t" if any(" " in word for word in words) else " ").join(words) + "\n")


def find_pictures(folder: StrPath) -> list[Path]:
    """Pictures in a folder and its sub-folders, sorted.

    Raises:
        UserError: there is no such folder, or no picture in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder, expected one of pictures")
    found = sorted(p for p in root.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    if not found:
        raise UserError(f"{root}: no pictures in it, expected .jpg or .png files")
    return found


def typed_pictures(names: Iterable[StrPath]) -> list[Path]:
    """Pictures as a user types them: files, which are not looked at, and folders with all that is in them.

    Raises:
        UserError: a folder without pictures.
    """
    paths = [Path(name) for name in names]
    return [picture for path in paths for picture in (find_pictures(path) if path.is_dir() else [path])]


def pair_by_name(images: StrPath, labels: StrPath) -> list[Sample]:
    """Pair the pictures of one folder with label maps of the same name (``.png``) in another one.

    Raises:
        UserError: a folder is missing or empty, or a picture has no label map.
    """
    samples = []
    for image in find_pictures(images):
        label = (Path(labels) / image.relative_to(images)).with_suffix(".png")
        if not label.is_file():
            raise UserError(f"{label}: no such label map, expected one for the picture {image}")
        samples.append(Sample(image, label))
    return samples


def _read_bytes(path: Path, what: str) -> np.ndarray:
    """A file's bytes, once it is clear that it is a whole JPEG or PNG file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such {what}") from error
    except OSError as error:
        raise UserError(f"{path}: {what} cannot be read: {error.strerror}") from error
    if not data.startswith((_PNG, _JPEG)):
        raise UserError(f"{path}: not a {what}; expected a JPEG or PNG file")
    end = _PNG_END if data.startswith(_PNG) else _JPEG_END
    if not data.endswith(end):
        read_picture(path)  # something follows the end, or it is cut off: this tells
    return np.frombuffer(data, np.uint8)


def _decoded(data: np.ndarray, flags: int, path: Path, what: str) -> np.ndarray:
    import cv2

    try:
        found: Any = cv2.imdecode(data, flags)
    except cv2.error:
        found = None
    if found is None:
        raise UserError(f"{path}: {what} is damaged; expected a whole JPEG or PNG file")
    return found


def read_image(path: StrPath) -> np.ndarray:
    """Read a picture with OpenCV.

    Returns:
        (H, W, 3) uint8, red, green, blue.

    Raises:
        UserError: the file is missing, is no JPEG or PNG, or is cut off or damaged.
    """
    import cv2

    file = Path(path)
    pixels = _decoded(_read_bytes(file, "picture"), cv2.IMREAD_COLOR, file, "picture")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def read_label(path: StrPath) -> np.ndarray:
    """Read a label map: a grey PNG file of 8 bits a pixel, or the numbers of one with a palette.

    Returns:
        (H, W) uint8.

    Raises:
        UserError: the file is missing, is of another kind, or is cut off or damaged.
    """
    import cv2

    file = Path(path)
    data = _read_bytes(file, "label map")
    head = data[:26].tobytes()
    if not head.startswith(_PNG):
        raise UserError(f"{file}: label map is a JPEG file, expected a PNG file of class ids")
    bits, colour = head[24], head[25]
    if colour == _PALETTE:
        return _palette_numbers(file, data)
    if (bits, colour) != (8, _GREY):
        kind = f"{bits} bits, grey" if colour == _GREY else f"{bits} bits, colour"
        raise UserError(f"{file}: label map has {kind}, expected 8 bits of grey that are class ids")
    return _decoded(data, cv2.IMREAD_UNCHANGED, file, "label map")


def _palette_numbers(file: Path, data: np.ndarray) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # odd metadata does not concern the numbers
            with Image.open(io.BytesIO(data.tobytes()), formats=("PNG",)) as image:
                return np.array(image, np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{file}: label map is damaged ({error}); expected a whole PNG file") from error


def _check_sizes(sample: Sample, image: tuple[int, ...], label: tuple[int, ...]) -> None:
    if image[:2] != label[:2]:
        found, wanted = (f"{size[0]}x{size[1]}" for size in (label, image))
        raise UserError(f"{sample.label}: label map of {found}, expected {wanted} as {sample.image} has")


def read_sample(sample: Sample) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a picture (H, W, 3) uint8 and its label map (H, W) uint8, None where there is none.

    Raises:
        UserError: one cannot be read, or they differ in size.
    """
    image = read_image(sample.image)
    if not sample.has_label:
        return image, None
    label = read_label(sample.label)
    _check_sizes(sample, image.shape, label.shape)
    return image, label


def _picture_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture, as it will be turned by its EXIF orientation, from its first bytes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(path, formats=("JPEG", "PNG")) as image:
                width, height = image.size
                turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such picture") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a picture; expected a JPEG or PNG file") from error
    return (width, height) if turned else (height, width)


def _counted(sample: Sample) -> np.ndarray:
    """How many pixels of a label map have each value, (256,)."""
    label = read_label(sample.label)
    _check_sizes(sample, _picture_size(sample.image), label.shape)
    return np.bincount(label.ravel(), minlength=256)


def _sum(
    counts: Iterable[np.ndarray], samples: Sequence[Sample], allowed: np.ndarray, rule: str
) -> np.ndarray:
    """The sum of all counts, once no value is outside; else the first three files with such values."""
    total, wrong, files = np.zeros(256, np.int64), [], 0
    for sample, count in zip(samples, counts, strict=True):
        total += count
        outside = np.flatnonzero((count > 0) & ~allowed)
        files += len(outside) > 0
        if len(outside) and len(wrong) < 3:
            values = ", ".join(map(str, outside[:8])) + (", ..." if len(outside) > 8 else "")
            wrong.append(f"{sample.label} has {values}")
    if wrong:
        more = f" ({files} files of {len(samples)} in all)" if files > len(wrong) else ""
        raise UserError(f"label values outside the classes: {'; '.join(wrong)}{more}; {rule}")
    return total


def check_labels(
    samples: Sequence[Sample], classes: int, ignore: int, *, workers: int | None = None
) -> dict[str, Any]:
    """Look at every label map: does it exist, fit its picture, and hold class ids only?

    Args:
        samples: what is looked at; those without a label map are left out.
        classes: K; values 0 to K - 1 are right.
        ignore: the value of pixels without a class.
        workers: threads that read; None: one a core, eight at most.

    Returns:
        ``files``, their number; ``pixels``, how many each class has (K); ``ignored``, how many have none;
        ``missing``, the classes without any pixel.

    Raises:
        UserError: a file is missing, damaged, or does not fit its picture; or values are outside: the first
            files, with their values, and what was expected.
    """
    labelled = [sample for sample in samples if sample.has_label]
    allowed = np.zeros(256, bool)
    allowed[:classes] = allowed[ignore] = True
    rule = f"expected 0 to {classes - 1}, and {ignore} for pixels without a class"
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        try:
            total = _sum(pool.map(_counted, labelled), labelled, allowed, rule)
        except UserError:
            pool.shutdown(cancel_futures=True)
            raise
    pixels = [int(total[c]) if c != ignore else 0 for c in range(classes)]
    return {
        "files": len(labelled),
        "pixels": pixels,
        "ignored": int(total[ignore]),
        "missing": [c for c in range(classes) if not pixels[c] and c != ignore],
    }
