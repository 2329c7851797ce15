"""A picture of what the network still looks at: the patches that are kept behind each clip layer.

# h, w the picture's size
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

INK, SOFT, PAPER = "#1d2126", "#5d6670", "#ffffff"
LONGER = 260
"""Longer side of a panel, in pixels."""
NARROWEST = 140
"""Least side of a panel, so that its title fits."""
GAP, LETTER = 12, 14
FADED = 0.82
"""How far a dropped patch goes to `MIST`, of its grey."""
MIST = 236.0


def draw_kept(
    image: np.ndarray,
    patches: Mapping[int, Tensor],
    lines: Sequence[str] = (),
    *,
    used: tuple[float, float] = (1.0, 1.0),
) -> Image.Image:
    """The picture, and beside it what is left of it behind each clip layer, with lines of text below.

    Args:
        image: (h, w, 3) uint8.
        patches: behind each clip layer, by the number of its block: (rows, columns) bool, which remain.
        lines: text below the panels, the first one in strong ink.
        used: shares of height and width that patches cover; where these do not divide the picture, its last
            pixels are in no patch.
    """
    width, height = _panel_size(image)
    whole = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    panels = [("all patches", whole)]
    for layer, kept in patches.items():
        share = f"{int(kept.sum())} of {kept.numel()}"
        panels.append((f"block {layer}: {share}", _faded(whole, kept.cpu().numpy(), used)))
    font = ImageFont.load_default(LETTER)
    row = round(1.5 * LETTER)
    wide = max(
        GAP + len(panels) * (width + GAP), *(round(font.getlength(line)) + 2 * GAP for line in lines), 0
    )
    sheet = Image.new("RGB", (wide, row + height + GAP + row * len(lines) + 2 * GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (title, panel) in enumerate(panels):
        left = GAP + number * (width + GAP)
        draw.text((left, GAP // 2), title, fill=SOFT, font=font)
        sheet.paste(panel, (left, row + GAP // 2))
    for number, line in enumerate(lines):
        top = row + height + 2 * GAP + number * row
        draw.text((GAP, top), line, fill=SOFT if number else INK, font=font)
    return sheet


def _panel_size(image: np.ndarray) -> tuple[int, int]:
    """Width and height of a panel: the picture's proportions, but no strip."""
    height, width = image.shape[:2]
    factor = LONGER / max(height, width)
    return max(round(width * factor), NARROWEST), max(round(height * factor), NARROWEST)


def _faded(picture: Image.Image, kept: np.ndarray, used: tuple[float, float]) -> Image.Image:
    """The picture with dropped patches, and what is in no patch, nearly gone."""
    pixels = np.asarray(picture, np.float32)
    height, width = pixels.shape[:2]
    inside = (round(height * used[0]), round(width * used[1]))
    stays = np.zeros((height, width), bool)
    stays[: inside[0], : inside[1]] = kept[
        np.arange(inside[0])[:, None] * kept.shape[0] // inside[0],
        np.arange(inside[1])[None] * kept.shape[1] // inside[1],
    ]
    grey = pixels.mean(axis=2, keepdims=True)
    shown = np.where(stays[..., None], pixels, (1 - FADED) * grey + FADED * MIST)
    return Image.fromarray(np.rint(shown).astype(np.uint8))
