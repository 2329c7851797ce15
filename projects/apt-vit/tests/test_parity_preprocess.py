"""The way of a picture to the network against the recorded pictures."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from apt_vit.preprocess import Preprocess
from prunelab.transforms.classify import Window
from prunelab.transforms.crops import resized_crops
from testing.parity import Folder, of_kind

CLOSE = 1e-6
STEP = 2 / 255
"""One of 255 levels: another build of Pillow may round in another way."""


def assert_equal_but_for_rounding(found: Tensor, wanted: Tensor, *, most: float = 0.1) -> None:
    off = (found - wanted).abs()
    assert found.shape == wanted.shape
    assert off.max() <= STEP + CLOSE
    assert (off > CLOSE).float().mean() < most


@pytest.mark.parity
@of_kind("preprocess")
def test_pictures_and_crops_are_the_recorded_ones(folder: Folder) -> None:
    listed, arrays = folder.json("cases.json"), folder.numpy("data.npz")
    scale = re.search(r"scale=\(([\d.]+),", listed["train_transform"])
    assert scale is not None
    for case in listed["cases"]:
        image, (test, train) = (
            arrays[f"{case['case']}_img"],
            (torch.from_numpy(arrays[f"{case['case']}_{split}"]) for split in ("test", "train")),
        )
        sides = (case["img_size"], case["img_size"])
        preprocess = Preprocess(size=sides, crop_scale=float(scale[1]))
        assert_equal_but_for_rounding(preprocess.picture(image), test)
        torch.manual_seed(case["torch_seed"])
        assert_equal_but_for_rounding(preprocess.training_picture(image), train)

        torch.manual_seed(case["torch_seed"])
        drawn = preprocess.draw(*image.shape[:2])
        assert list(drawn.window) == case["crop_top_left_height_width"]
        windows = [Window(0, 0, *image.shape[:2]), drawn.window]
        several = resized_crops(image[None], [0, 0], windows, [False] * 2, sides, preprocess.colours)
        for found, wanted, window in zip(torch.from_numpy(several), (test, train), windows, strict=True):
            # Rows and columns come in another order where a side becomes shorter, as CIFAR's rarely does.
            shorter = max(window.height, window.width) > case["img_size"]
            assert_equal_but_for_rounding(found, wanted, most=1 if shorter else 0.1)
