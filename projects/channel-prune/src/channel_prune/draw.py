"""Detections drawn on a picture: boxes, names and scores, and a legend.

# H, W picture, n boxes, K classes
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LEAST_SIDE = 320
"""Smaller pictures are enlarged before they are drawn on, so that names can be read."""
INK, PAPER = "#1d2126", "#ffffff"


def distinct_colours(count: int) -> list[tuple[int, int, int]]:
    """Bright colours that differ, one a class: steps of the golden ratio around the circle of hues."""
    hues = (0.02 + place * 0.618034 for place in range(count))
    rows = (colorsys.hsv_to_rgb(hue % 1.0, 0.85, 0.95) for hue in hues)
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in rows]


def draw_detections(
    image: np.ndarray, boxes: np.ndarray, labels: Sequence[str], scores: np.ndarray, names: Sequence[str]
) -> Image.Image:
    """A picture with boxes on it, each with its class and score, and below it how many there are of each.

    Args:
        image: (H, W, 3) uint8; enlarged where it is small.
        boxes: xmin, ymin, xmax, ymax in pixels, (n, 4).
        labels: names of the boxes' classes (n).
        scores: (n,).
        names: all K classes, by which colours are chosen.
    """
    factor = max(1, round(LEAST_SIDE / min(image.shape[:2])))
    width, height = image.shape[1] * factor, image.shape[0] * factor
    shown = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    letter = int(np.clip(min(height, width) / 26, 12, 36))
    font, line = ImageFont.load_default(letter), max(2, letter // 8)
    colours = dict(zip(names, distinct_colours(len(names)), strict=True))
    draw = ImageDraw.Draw(shown)
    # The surest last, so that it lies above the others.
    order: list[int] = np.argsort(scores, kind="stable").tolist()
    for place in order:
        left, top, right, bottom = (boxes[place] * factor).tolist()
        label: str = labels[place]
        colour = colours[label]
        draw.rectangle((left, top, max(right, left), max(bottom, top)), outline=colour, width=line)
        text = f"{label} {scores[place]:.2f}"
        # Above the box where there is room, else inside it; never beyond the right border.
        x = max(min(left, width - draw.textlength(text, font=font) - 2 * line), 0)
        y = top - 1.35 * letter if top >= 1.35 * letter else top
        extent = draw.textbbox((x + line, y), text, font=font)
        draw.rectangle((x, y, extent[2] + line, extent[3] + line), fill=colour)
        draw.text((x + line, y), text, fill=_ink(colour), font=font)
    return _with_legend(shown, labels, colours, letter)


def _ink(colour: tuple[int, int, int]) -> str:
    """Black or white, whichever can be read on a colour."""
    red, green, blue = colour
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else PAPER


def _with_legend(
    shown: Image.Image, labels: Sequence[str], colours: dict[str, tuple[int, int, int]], letter: int
) -> Image.Image:
    """The picture with a line below it: colour, name and number of boxes of the classes that occur."""
    counts = {name: sum(label == name for label in labels) for name in colours}
    texts = [(name, f"{name}: {count}") for name, count in counts.items() if count] or [("", "nothing found")]
    font, gap = ImageFont.load_default(letter), letter // 2
    row = round(letter * 1.8)
    places, x, y = [], gap, gap
    for name, text in texts:
        wide = letter + gap + round(font.getlength(text)) + 2 * gap
        if x > gap and x + wide > shown.width:
            x, y = gap, y + row
        places.append((x, y, name, text))
        x += wide
    sheet = Image.new("RGB", (shown.width, shown.height + y + row), PAPER)
    sheet.paste(shown, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for x, y, name, text in places:
        top = shown.height + y
        if name:
            draw.rectangle((x, top + letter // 8, x + letter, top + letter + letter // 8), fill=colours[name])
            x += letter + gap
        draw.text((x, top), text, fill=INK, font=font)
    return sheet
