"""The ResNet in front of a hybrid's tokens, and the sizes of grids of tokens.

# B batch, W width of the first convolution, S side of the picture, F side of the stem's features
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from apt_vit.config import ModelConfig, ResNetConfig
from prunelab.errors import UserError

STRIDE = 16
"""Pixels of a side to one feature of the stem."""
GROUPS = 32
STAGES = 3


class StandardisedConv(nn.Conv2d):
    """A convolution without bias whose weight has mean 0 and variance 1 for each output channel.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        kernel: its side.
        stride: its step.
        published: pads by what is missing, more on the far side, and hardly softens the variance; else pads
            both sides alike.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, published: bool = False
    ) -> None:
        uneven = published and stride > 1
        super().__init__(inputs, outputs, kernel, stride, 0 if uneven else kernel // 2, bias=False)
        self.uneven = uneven
        self.softening = 1e-8 if published else 1e-5

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to (B, outputs, H/stride, W/stride), rounded up."""
        if self.uneven:
            input = pad_same(input, self.kernel_size[0], self.stride[0])
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) / torch.sqrt(variance + self.softening)
        return F.conv2d(input, weight, None, self.stride, self.padding)


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around (B, C, H, W), so that sides become side / stride, rounded up; one more on the far side."""
    missing = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[:1:-1]]
    return F.pad(x, [zeros for side in missing for zeros in (side // 2, side - side // 2)])


class Unit(nn.Module):
    """A bottleneck: 1x1, 3x3, 1x1, and a shortcut.

    Args:
        inputs: channels that come in.
        mid: channels of the 3x3 convolution.
        outputs: channels that go out.
        stride: of the 3x3 convolution.
        published: as in `Stem`.
    """

    def __init__(self, inputs: int, mid: int, outputs: int, stride: int, *, published: bool) -> None:
        super().__init__()
        self.gn1 = nn.GroupNorm(GROUPS, mid, eps=1e-6)
        self.conv1 = StandardisedConv(inputs, mid, 1, published=published)
        self.gn2 = nn.GroupNorm(GROUPS, mid, eps=1e-6)
        self.conv2 = StandardisedConv(mid, mid, 3, stride, published=published)
        self.gn3 = nn.GroupNorm(GROUPS, outputs, eps=1e-6)
        self.conv3 = StandardisedConv(mid, outputs, 1, published=published)
        self.projects = stride != 1 or inputs != outputs
        if self.projects:
            self.downsample = StandardisedConv(inputs, outputs, 1, stride, published=published)
            # The original has a group for each channel, and another softening.
            groups, eps = (GROUPS, 1e-6) if published else (outputs, 1e-5)
            self.gn_proj = nn.GroupNorm(groups, outputs, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, F, F) to (B, outputs, F/stride, F/stride)."""
        shortcut = self.gn_proj(self.downsample(x)) if self.projects else x
        y = F.relu(self.gn1(self.conv1(x)))
        y = F.relu(self.gn2(self.conv2(y)))
        return F.relu(shortcut + self.gn3(self.conv3(y)))


class Stem(nn.Module):
    """Pictures (B, 3, S, S) to features (B, 16 W, F, F).

    Args:
        cfg: units and widths.
        pool_same: the pooling pads on the far side, so that no feature is lost; else not.
        published: all else is as in the network of the published weights; else as in the original.

    Raises:
        UserError: another number of stages than three, or a width that has no 32 groups.
    """

    def __init__(self, cfg: ResNetConfig, *, pool_same: bool, published: bool) -> None:
        super().__init__()
        width = stem_width(cfg)
        self.pool_same = pool_same
        self.root = nn.Sequential(
            OrderedDict(
                conv=StandardisedConv(3, width, 7, 2, published=published),
                gn=nn.GroupNorm(GROUPS, width, eps=1e-6),
                relu=nn.ReLU(),
            )
        )
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = width
        for i, count in enumerate(cfg.num_layers):
            mid, outputs = width * 2**i, width * 2 ** (i + 2)
            units: OrderedDict[str, nn.Module] = OrderedDict()
            for j in range(count):
                stride = 2 if i and not j else 1
                units[f"unit{j + 1}"] = Unit(inputs, mid, outputs, stride, published=published)
                inputs = outputs
            stages[f"block{i + 1}"] = nn.Sequential(units)
        self.channels = inputs
        self.body = nn.Sequential(stages)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, 16 W, F, F)."""
        x = self.root(images)
        if self.pool_same:
            x = pad_same(x, 3, 2)  # behind ReLU nothing is below 0, so that zeros change no maximum
        return self.body(F.max_pool2d(x, 3, 2))


def stem_width(cfg: ResNetConfig) -> int:
    """Channels W behind the first convolution.

    Raises:
        UserError: another number of stages than three, or a width that has no 32 groups.
    """
    if len(cfg.num_layers) != STAGES:
        raise UserError(f"resnet.num_layers is {cfg.num_layers}, expected {STAGES} numbers of units")
    width = int(64 * cfg.width_factor)
    if width < GROUPS or width % GROUPS:
        raise UserError(
            f"resnet.width_factor is {cfg.width_factor}, expected a multiple of {GROUPS / 64} (whole groups)"
        )
    return width


# --- grids ---


def stem_side(pixels: int, *, pool_same: bool) -> int:
    """Features F of one side of a picture."""
    side = -(-pixels // 2)
    side = -(-side // 2) if pool_same else (side - 3) // 2 + 1
    for _ in range(STAGES - 1):
        side = -(-side // 2)
    return side


def kernel_of(cfg: ModelConfig) -> tuple[int, int]:
    """Kernel and stride of the patch convolution: pixels, or for a hybrid the stem's features.

    Raises:
        UserError: the picture is too small for the hybrid's grid.
    """
    if cfg.patch_size is not None:
        return cfg.patch_size
    assert cfg.patch_grid is not None  # checked by ModelConfig
    kernel = (
        cfg.img_size[0] // STRIDE // cfg.patch_grid[0],
        cfg.img_size[1] // STRIDE // cfg.patch_grid[1],
    )
    if 0 in kernel:
        smallest = " x ".join(str(STRIDE * n) for n in cfg.patch_grid)
        raise UserError(
            f"img_size is {_times(cfg.img_size)}, expected at least {smallest} for a grid of {cfg.patch_grid}"
        )
    return kernel


def grid_of(cfg: ModelConfig) -> tuple[int, int]:
    """Rows and columns of a picture's patch tokens.

    Raises:
        UserError: the picture is smaller than one patch, or than the hybrid's grid needs.
    """
    kernel = kernel_of(cfg)
    sides = cfg.img_size
    if cfg.patch_size is None:
        height, width = sides
        same = cfg.root_pool_same
        sides = (stem_side(height, pool_same=same), stem_side(width, pool_same=same))
    grid = (sides[0] // kernel[0], sides[1] // kernel[1])
    if 0 in grid:
        raise UserError(
            f"img_size is {_times(cfg.img_size)}, expected at least a patch of {_times(kernel)} pixels"
        )
    return grid


def _times(sides: tuple[int, int]) -> str:
    return f"{sides[0]} x {sides[1]}"
