"""Sets of pictures that were shrunken or compressed again are noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from expansionnet.features.visual import picture_notes


def pictures(folder: Path, side: int, spread: int) -> list[Path]:
    levels = np.random.default_rng(0).integers(0, spread, (side, side, 3), dtype=np.uint8)
    paths = [folder / f"{number}.jpg" for number in range(3)]
    for path in paths:
        Image.fromarray(levels).save(path)
    return paths


@pytest.mark.parametrize(
    ("side", "spread", "said"),
    [
        (64, 256, []),
        (20, 256, ["at most 20 pixels long, the backbone reads 32"]),
        (256, 1, ["bytes a pixel, COCO's own about 0.5"]),
    ],
)
def test_small_and_strongly_compressed_pictures_are_told(
    tmp_path: Path, side: int, spread: int, said: list[str]
) -> None:
    found = picture_notes(pictures(tmp_path, side, spread), 32)
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))


def test_files_that_are_no_pictures_say_nothing_here(tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_text("text")
    assert picture_notes([tmp_path / "no.jpg", tmp_path / "missing.jpg"], 32) == []
