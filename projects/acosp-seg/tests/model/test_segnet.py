"""SegNet: odd sizes, logits that are never negative, too small pictures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from acosp_seg.config import ModelConfig
from acosp_seg.model.resnet18 import ResNet18
from acosp_seg.model.segnet import SegNet, Up
from prunelab.errors import UserError

TINY = ModelConfig(arch="segnet", classes=3, width=4)


@pytest.mark.parametrize("size", [(32, 32), (33, 63), (45, 61)])
def test_every_size_comes_back_exactly(size: tuple[int, int]) -> None:
    assert SegNet(TINY).eval()(torch.randn(1, 3, *size)).shape == (1, 3, *size)


def test_logits_are_normalised_and_never_negative() -> None:
    torch.manual_seed(0)
    logits = SegNet(TINY).train()(torch.randn(2, 3, 32, 32))
    assert logits.min() == 0
    assert logits.max() > 0


def test_unpooling_puts_values_back_where_they_were() -> None:
    up = Up(1, (1,))
    up.convs = nn.Sequential()
    values, places = nn.functional.max_pool2d(torch.arange(12.0).view(1, 1, 3, 4), 2, return_indices=True)
    expected = torch.zeros(1, 1, 3, 4)
    expected[0, 0, 1, 1], expected[0, 0, 1, 3] = 5, 7
    assert torch.equal(up(values, places, (1, 1, 3, 4)), expected)


def test_too_small_pictures_are_refused() -> None:
    with pytest.raises(UserError, match="input height is 31, expected at least 32 for SegNet"):
        SegNet(TINY).eval()(torch.zeros(1, 3, 31, 64))


def test_classifier_refuses_to_train_on_one_tiny_picture() -> None:
    model = ResNet18(ModelConfig(arch="resnet18", classes=3, width=4))
    with pytest.raises(UserError, match="batch size is 1, expected at least 2 to train ResNet-18"):
        model.train()(torch.zeros(1, 3, 16, 16))
    assert model.eval()(torch.zeros(1, 3, 16, 16)).shape == (1, 3)
