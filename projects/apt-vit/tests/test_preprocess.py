"""The way of a picture to the network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

from apt_vit.lowering import lower_values
from apt_vit.preprocess import Draw, Preprocess, preprocess_of
from prunelab.config import from_plain, to_plain
from prunelab.errors import UserError
from prunelab.transforms.classify import Window

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 28, 3), dtype=np.uint8)
WAY = Preprocess(size=(24, 32))


def test_a_picture_becomes_what_torchvision_makes_of_it() -> None:
    theirs = Compose([Resize((24, 32)), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
    wanted = theirs(Image.fromarray(IMAGE))
    assert torch.equal(WAY.picture(IMAGE), wanted)
    assert WAY.fitted(IMAGE).shape == (24, 32, 3)


def test_a_training_picture_is_the_window_that_was_drawn_perhaps_mirrored() -> None:
    window = Window(3, 5, 20, 18)
    part = WAY.picture(np.ascontiguousarray(IMAGE[3:23, 5:23]))
    assert torch.equal(WAY.training_picture(IMAGE, Draw(window, False)), part)
    assert torch.equal(WAY.training_picture(IMAGE, Draw(window, True)), part.flip(2))


def test_draws_come_from_torchs_generator_and_a_mirrored_one_draws_the_same_window() -> None:
    drawn = []
    for flip in (False, True):
        torch.manual_seed(5)
        drawn.append(replace(WAY, flip=flip).draw(40, 28))
    assert drawn[0].window == drawn[1].window
    torch.manual_seed(5)
    many = [replace(WAY, flip=True, crop_scale=0.3).draw(40, 28) for _ in range(200)]
    assert 60 < sum(each.flip for each in many) < 140
    shares = [each.window.height * each.window.width / (40 * 28) for each in many]
    assert 0.28 < min(shares) < 0.5
    assert not any(WAY.draw(40, 28).flip for _ in range(20))


def test_it_is_saved_as_plain_data_and_follows_the_configuration() -> None:
    cfg = lower_values({"dataset": "tiny", "crop_scale": 0.4, "flip": False, "img_size": (16, 24)})
    way = preprocess_of(cfg)
    assert (way.size, way.crop_scale, way.flip) == ((16, 24), 0.4, False)
    assert from_plain(Preprocess, to_plain(way), where="here") == way


def test_a_size_that_is_none_is_refused() -> None:
    for size in ((0, 4), (4,)):
        with pytest.raises(UserError, match=r"size is \(.*\), expected a height and a width"):
            Preprocess(size=size)  # pyright: ignore[reportArgumentType] - what a file may say
