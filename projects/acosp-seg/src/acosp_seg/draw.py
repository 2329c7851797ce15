"""Label maps as pictures: grey and palette PNG files, colours over a photograph, a legend.

# H, W picture, K classes
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from prunelab.errors import UserError

LEAST_SIDE = 320
"""Smaller pictures are enlarged before a legend is put beside them, so that it can be read."""
INK, SOFT, PAPER = "#1d2126", "#626b75", "#ffffff"


def distinct_colors(count: int) -> np.ndarray:
    """Colours that differ, (count, 3) uint8, for classes that come without any: those of Pascal VOC.

    The bits of a class's number are spread over the high bits of red, green and blue.
    """
    colors = np.zeros((count, 3), np.uint8)
    for label in range(count):
        rest = label
        for bit in range(7, -1, -1):
            for channel in range(3):
                colors[label, channel] |= ((rest >> channel) & 1) << bit
            rest >>= 3
    return colors


def paint(labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """The colour of every pixel's class, (H, W, 3) uint8; labels that are no class are black.

    Args:
        labels: (H, W) uint8.
        colors: (K, 3) uint8.
    """
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = colors
    return table[labels]


def overlay(image: np.ndarray, labels: np.ndarray, colors: np.ndarray, opacity: float = 0.5) -> np.ndarray:
    """A picture with its classes' colours over it, and lines between them: (H, W, 3) uint8.

    Args:
        image: RGB (H, W, 3) uint8.
        labels: (H, W) uint8.
        colors: (K, 3) uint8.
        opacity: of the colours: 0 shows the picture alone, 1 the colours alone.
    """
    painted = cv2.addWeighted(image, 1 - opacity, paint(labels, colors), opacity, 0)
    if 0 < opacity < 1:
        painted[borders(labels)] = 255
    return painted


def borders(labels: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour has another label, (H, W) bool."""
    found = np.zeros(labels.shape, bool)
    found[:-1] |= labels[:-1] != labels[1:]
    found[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return found


def with_legend(
    image: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    colors: np.ndarray,
    opacity: float = 0.5,
) -> Image.Image:
    """An `overlay` with the classes that it holds beside it: colour, name and share, the largest first.

    Args:
        image: RGB (H, W, 3) uint8; enlarged where it is small.
        labels: (H, W) uint8.
        names: K class names.
        colors: (K, 3) uint8.
        opacity: of the colours.
    """
    factor = max(1, round(LEAST_SIDE / min(labels.shape)))
    size = (labels.shape[1] * factor, labels.shape[0] * factor)
    shown = overlay(
        cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) if factor > 1 else image,
        cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST) if factor > 1 else labels,
        colors,
        opacity,
    )
    high, wide = shown.shape[:2]
    height = int(np.clip(high / 24, 13, 40))  # of a letter
    line, font = round(height * 1.6), label_font(height)
    room = max((high - height) // line, 1)
    lines = _legend_lines(labels, names, colors, room)
    name_width = max([int(font.getlength(name)) for name, _, _ in lines], default=0)
    column = height * 3 + name_width + int(font.getlength("  100.0 %"))
    sheet = Image.new("RGB", (wide + column, high), PAPER)
    sheet.paste(Image.fromarray(shown), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for number, (name, share, color) in enumerate(lines):
        x, y = wide + height // 2, height // 2 + number * line
        if color is not None:
            top = y + height // 8
            draw.rectangle((x, top, x + height, top + height), fill=color, outline=SOFT)
        draw.text((x + round(height * 1.5), y), name, fill=INK, font=font)
        draw.text((wide + column - height // 2, y), share, fill=SOFT, font=font, anchor="ra")
    return sheet


def _legend_lines(
    labels: np.ndarray, names: Sequence[str], colors: np.ndarray, room: int
) -> list[tuple[str, str, tuple[int, ...] | None]]:
    """Name, share and colour of the classes in a label map; if they are more than ``room``, the largest."""
    counts = np.bincount(labels.ravel(), minlength=256)[: len(names)]
    present = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    listed = present if len(present) <= room else present[: room - 1]
    lines: list[tuple[str, str, tuple[int, ...] | None]] = [
        (names[label], f"{100 * counts[label] / labels.size:.1f} %", tuple(colors[label].tolist()))
        for label in listed
    ]
    if len(listed) < len(present):
        lines.append((f"and {len(present) - len(listed)} more", "", None))
    return lines


def label_font(size: int) -> Any:
    """A font that comes with matplotlib, ``size`` pixels high."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


def file_names(pictures: Sequence[Path], *, cut_at_dot: bool) -> list[str]:
    """Names of the files of predictions, without ending.

    Args:
        pictures: what is predicted.
        cut_at_dot: as in the original: up to a picture's first dot; files of one name overwrite each other.

    Raises:
        UserError: two pictures would have one file.
    """
    if cut_at_dot:
        return [picture.name.split(".")[0] for picture in pictures]
    first: dict[str, Path] = {}
    for picture in pictures:
        earlier = first.setdefault(picture.stem, picture)
        if earlier != picture:
            raise UserError(
                f"{picture} and {earlier} have one name, expected names that differ: predictions are named "
                "by them"
            )
    return [picture.stem for picture in pictures]


def write_gray(path: Path, labels: np.ndarray) -> None:
    """Write a label map (H, W) uint8 as a grey PNG file whose values are the labels.

    Raises:
        UserError: the file cannot be written.
    """
    _write(path, Image.fromarray(labels))


def write_color(path: Path, labels: np.ndarray, colors: np.ndarray) -> None:
    """Write a label map (H, W) uint8 as a PNG file of labels with a palette; other labels are black.

    Raises:
        UserError: the file cannot be written.
    """
    image = Image.fromarray(labels)
    # All 256 entries: with fewer, the file would have too few bits for a label beyond them.
    image.putpalette(colors.astype(np.uint8).tobytes().ljust(768, b"\0"))
    _write(path, image)


def write_picture(path: Path, picture: np.ndarray | Image.Image) -> None:
    """Write an RGB picture as a PNG file.

    Raises:
        UserError: the file cannot be written.
    """
    _write(path, picture if isinstance(picture, Image.Image) else Image.fromarray(picture))


def _write(path: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=3)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
