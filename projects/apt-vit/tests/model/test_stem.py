"""The hybrid's stem and the grids of tokens."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from timm.layers.std_conv import StdConv2dSame
from timm.models.resnetv2 import ResNetV2
from torch import nn

from apt_vit.config import ModelConfig, ResNetConfig
from apt_vit.model import build
from apt_vit.model.stem import StandardisedConv, Stem, grid_of, kernel_of, pad_same
from prunelab.errors import UserError

HYBRID = ModelConfig(
    model_type="small hybrid",
    patch_size=None,
    patch_grid=(4, 4),
    resnet=ResNetConfig(num_layers=(1, 1, 1), width_factor=0.5),
    hidden_size=16,
    mlp_dim=16,
    num_heads=2,
    num_layers=1,
    img_size=(64, 64),
)
FAITHFUL = {"root_pool_same": False, "stem_as_published": False}


def with_sizes(height: int, width: int, **changes: object) -> ModelConfig:
    return dataclasses.replace(HYBRID, img_size=(height, width), **changes)  # type: ignore[arg-type]


def test_a_standardised_weight_has_mean_0_and_variance_1_for_each_output() -> None:
    conv = StandardisedConv(4, 3, 3)
    with torch.no_grad():
        conv.weight.mul_(5).add_(2)
    x = torch.randn(1, 4, 5, 5)
    flat = conv.weight.flatten(1)
    normal = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    expected = torch.conv2d(x, normal.view_as(conv.weight), padding=1)
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "near", "far"), [(7, 2, 2, 3), (3, 2, 0, 1), (1, 2, 0, 0), (3, 1, 1, 1)]
)
def test_padding_puts_the_odd_row_on_the_far_side(kernel: int, stride: int, near: int, far: int) -> None:
    padded = pad_same(torch.ones(1, 1, 8, 6), kernel, stride)
    expected = torch.nn.functional.pad(torch.ones(1, 1, 8, 6), (near, far, near, far))
    assert torch.equal(padded, expected)


def test_padding_of_an_odd_side_is_even() -> None:
    padded = pad_same(torch.ones(1, 1, 9, 8), 3, 2)
    assert torch.equal(padded, torch.nn.functional.pad(torch.ones(1, 1, 9, 8), (0, 1, 1, 1)))


@pytest.mark.oracle
@pytest.mark.parametrize("side", [64, 75])
@torch.no_grad()
def test_the_published_stem_is_timms(side: int) -> None:
    torch.manual_seed(0)
    ours = Stem(ResNetConfig(num_layers=(2, 1, 1), width_factor=0.5), pool_same=True, published=True).eval()
    theirs = ResNetV2(
        layers=(2, 1, 1),
        channels=(128, 256, 512),
        stem_chs=32,
        num_classes=0,
        global_pool="",
        preact=False,
        stem_type="same",
        conv_layer=partial(StdConv2dSame, eps=1e-8),
    ).eval()
    for part in theirs.modules():
        if isinstance(part, nn.GroupNorm):
            part.eps = 1e-6
    for values in ours.parameters():
        values.copy_(torch.randn_like(values))
    state, names = theirs.state_dict(), {"gn1": "norm1", "gn2": "norm2", "gn3": "norm3"}
    names |= {"downsample": "downsample.conv", "gn_proj": "downsample.norm"}
    for name, values in ours.state_dict().items():
        *place, part, kind = name.split(".")
        if place == ["root"]:
            path = f"stem.{'conv' if part == 'conv' else 'norm'}.{kind}"
        else:
            stage, unit = int(place[1][5:]) - 1, int(place[2][4:]) - 1
            path = f"stages.{stage}.blocks.{unit}.{names.get(part, part)}.{kind}"
        assert state[path].shape == values.shape
        state.pop(path).copy_(values)
    assert not state
    images = torch.randn(2, 3, side, side)
    torch.testing.assert_close(ours(images), theirs(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", [48, 64, 68, 69, 79, 80, 128])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("published", [True, False])
@torch.no_grad()
def test_the_grid_is_what_the_stem_gives(side: int, same: bool, published: bool) -> None:
    cfg = with_sizes(side, 64, root_pool_same=same, stem_as_published=published, patch_grid=(2, 3))
    model = build(cfg).eval()
    rows, columns = grid_of(cfg)
    assert model.transformer.embeddings.position_embeddings.shape[1] == rows * columns + 1
    assert model.embed(torch.randn(1, 3, side, 64)).shape == (1, rows * columns + 1, 16)
    assert model.grid == (rows, columns)


@pytest.mark.parametrize(
    ("side", "kernel", "tokens"),
    [(224, 1, 197), (240, 1, 226), (384, 1, 577), (432, 1, 730), (447, 1, 785), (448, 2, 197)],
)
def test_faithful_grids_are_the_published_table(side: int, kernel: int, tokens: int) -> None:
    cfg = with_sizes(side, side, patch_grid=(14, 14), **FAITHFUL)
    assert kernel_of(cfg) == (kernel, kernel)
    rows, columns = grid_of(cfg)
    assert rows * columns + 1 == tokens


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (with_sizes(48, 64), "img_size is 48 x 64, expected at least 64 x 64 for a grid of (4, 4)"),
        (with_sizes(64, 64, resnet=ResNetConfig(num_layers=(1, 1))), "resnet.num_layers is (1, 1)"),
        (with_sizes(64, 64, resnet=ResNetConfig(width_factor=0.3)), "resnet.width_factor is 0.3"),
        (ModelConfig(img_size=(8, 32)), "img_size is 8 x 32, expected at least a patch of 16 x 16 pixels"),
    ],
)
def test_sizes_that_make_no_network_are_refused(cfg: ModelConfig, words: str) -> None:
    with pytest.raises(UserError) as found:
        build(cfg)
    assert words in str(found.value)
