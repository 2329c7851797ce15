"""Pictures as users have them become arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prunelab.data.pictures import pixels
from prunelab.errors import UserError


def test_files_images_and_arrays_are_the_same_picture(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")

    for picture in (array, Image.fromarray(array), tmp_path / "a.png", str(tmp_path / "a.png")):
        assert np.array_equal(pixels(picture), array)
    grey = pixels(Image.fromarray(array[:, :, 0]))
    assert grey.shape == (5, 4, 3)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3)), np.zeros((0, 2, 3), np.uint8)]
)
def test_other_arrays_are_told_in_one_line(array: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"expected uint8 \(height, width, 3\)"):
        pixels(array)
