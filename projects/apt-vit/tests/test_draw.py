"""Pictures of kept patches."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from apt_vit.draw import FADED, GAP, LETTER, LONGER, MIST, NARROWEST, draw_kept

RED = np.full((40, 80, 3), (200, 20, 20), np.uint8)
TOP = round(1.5 * LETTER) + GAP // 2


def panel(sheet: Image.Image, number: int, width: int, height: int) -> np.ndarray:
    left = GAP + number * (width + GAP)
    return np.asarray(sheet)[TOP : TOP + height, left : left + width]


def test_dropped_patches_are_nearly_gone_and_kept_ones_as_they_were() -> None:
    kept = {2: torch.tensor([[True, False], [True, True]]), 5: torch.tensor([[False, False], [True, False]])}
    sheet = draw_kept(RED, kept, ["a red wall 99.0%", "tokens"])
    width, height = LONGER, max(LONGER // 2, NARROWEST)
    assert sheet.width == GAP + 3 * (width + GAP)
    assert (panel(sheet, 0, width, height) == RED[0, 0]).all()
    faded = round((1 - FADED) * 80 + FADED * MIST)
    for number, mask in enumerate(kept.values(), 1):
        found = panel(sheet, number, width, height)
        for row, column in np.ndindex(2, 2):
            pixel = found[(2 * row + 1) * height // 4, (2 * column + 1) * width // 4]
            assert pixel.tolist() == ([200, 20, 20] if mask[row, column] else [faded] * 3)


def test_pixels_in_no_patch_are_faded_and_no_panel_is_a_strip() -> None:
    sheet = draw_kept(
        np.full((400, 20, 3), 30, np.uint8), {0: torch.ones(4, 2, dtype=torch.bool)}, used=(0.5, 1)
    )
    found = panel(sheet, 1, NARROWEST, LONGER)
    assert (found[: LONGER // 2] == 30).all()
    assert (found[LONGER // 2 :] > 150).all()
    assert sheet.height > LONGER


def test_a_network_that_prunes_nothing_has_one_panel_and_room_for_its_lines() -> None:
    short = draw_kept(RED, {})
    long = draw_kept(
        RED, {}, ["a line that is much longer than the panel above it is wide, so that it needs room"]
    )
    assert short.width == LONGER + 2 * GAP
    assert long.width > short.width
    assert long.height > short.height
