"""Pictures as users have them become arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prunelab.data.pictures import open_picture, pixels, read_picture
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


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_pictures_of_every_mode_keep_their_brightness(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    grey = np.repeat(np.array([0, 64, 128, 255], np.uint8), 16)[None].repeat(16, axis=0)
    if mode == "1":
        grey = np.where(grey < 128, 0, 255).astype(np.uint8)
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(file)
    else:
        Image.fromarray(grey).convert("RGB").convert(mode).save(file)

    assert open_picture(file).mode == mode
    found = np.asarray(read_picture(file)).astype(int)
    assert found.shape == (16, 64, 3)
    # A palette of the web's colours has steps of 51, and its dither is gone in the mean.
    assert abs(found.mean(axis=(0, 2)).reshape(4, 16).mean(1) - grey[0].reshape(4, 16).mean(1)).max() < 8


def test_transparency_in_a_palette_is_left_out(tmp_path: Path) -> None:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 200, 10, 30])
    picture.save(tmp_path / "clear.png", transparency=b"\xff\x00")

    assert np.asarray(read_picture(tmp_path / "clear.png"))[0, 0].tolist() == [200, 10, 30]


def test_a_picture_is_turned_as_its_exif_data_says_unless_it_is_wanted_as_stored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)

    assert open_picture(tmp_path / "turned.jpg").size == (8, 4)
    assert read_picture(tmp_path / "turned.jpg").size == (4, 8)
