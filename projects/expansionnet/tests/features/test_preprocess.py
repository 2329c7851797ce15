"""Pictures of every kind become what the backbone reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from expansionnet.features.preprocess import MEAN, STD, Preprocess
from prunelab.errors import UserError

LEVELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def restored(values: torch.Tensor) -> np.ndarray:
    """Levels (S, S, 3) of a prepared picture."""
    mean, std = (torch.tensor(colour)[:, None, None] for colour in (MEAN, STD))
    return ((values * std + mean) * 255).permute(1, 2, 0).numpy()


def test_a_picture_of_the_right_size_is_only_standardised() -> None:
    square = LEVELS[:, :20]
    assert np.allclose(restored(Preprocess(size=20)(square)), square, atol=1e-3)


def test_torchvisions_transforms_give_the_same() -> None:
    from torchvision import transforms

    theirs = transforms.Compose(
        [transforms.Resize((12, 12)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    picture = Image.fromarray(LEVELS)
    assert torch.equal(Preprocess(size=12)(picture), theirs(picture))


def test_files_images_and_arrays_are_the_same_alone_and_in_a_batch(tmp_path: Path) -> None:
    Image.fromarray(LEVELS).save(tmp_path / "a.png")
    prepare = Preprocess(size=8)
    batch = prepare.batch([tmp_path / "a.png", Image.fromarray(LEVELS), LEVELS])
    assert batch.shape == (3, 3, 8, 8)
    assert batch.is_contiguous()
    assert all(torch.equal(each, prepare(LEVELS)) for each in batch)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_other_modes_are_converted_or_as_in_the_original_black(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    grey = Image.fromarray(np.full((9, 7), 128, np.uint8))
    wide = Image.fromarray(np.full((9, 7), 128 * 257, np.uint16))
    (wide if mode == "I;16" else grey.convert("RGB").convert(mode)).save(file)
    assert abs(restored(Preprocess(size=4)(file)) - 128).max() < 26
    assert abs(restored(Preprocess(size=4, black=True)(file))).max() < 1e-3


def test_the_original_does_not_turn_pictures_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4] = 255
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    turned, stored = (Preprocess(size=8, black=black)(tmp_path / "turned.png") for black in (False, True))
    assert torch.equal(turned, stored.flip(1))


def test_broken_pictures_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_text("text")
    for black in (False, True):
        with pytest.raises(UserError, match=r"no\.jpg: not a picture; expected a JPEG or PNG file"):
            Preprocess(size=4, black=black)(tmp_path / "no.jpg")
