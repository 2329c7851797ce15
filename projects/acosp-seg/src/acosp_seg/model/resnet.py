"""The trunk of PSPNet: a ResNet with three 3x3 convolutions as its stem and dilation instead of late strides.

Follows section 3.1 of He et al. (bottleneck blocks) with the stem of Wang et al., "Understanding Convolution
for Semantic Segmentation"; the stride stands in a block's 3x3 convolution. The output is 1/8 of the input.
"""

from __future__ import annotations

from torch import Tensor, nn

from prunelab.errors import UserError

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks in each stage by the number of layers."""

EXPANSION = 4
"""Channels that leave a block, in multiples of its inner ones."""

# stride and dilation of the four stages: the last two widen their view instead of shrinking the picture
_STAGES = ((1, 1), (2, 1), (1, 2), (1, 4))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and the shortcut around them."""

    def __init__(self, inplanes: int, planes: int, *, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        out = planes * EXPANSION
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inplanes, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            if project
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inplanes, H, W) to (B, 4 planes, H / stride, W / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(out + shortcut)


def _stem(width: int, deep: bool) -> nn.Sequential:
    """Three 3x3 convolutions (or one of 7x7) and the pooling: 1/4 of the size."""
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    if not deep:
        conv = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True), pool)
    parts: list[nn.Module] = []
    for inplanes, planes, stride in ((3, width, 2), (width, width, 1), (width, 2 * width, 1)):
        conv = nn.Conv2d(inplanes, planes, 3, stride, padding=1, bias=False)
        parts += [conv, nn.BatchNorm2d(planes), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts, pool)


def trunk(layers: int, width: int = 64, *, deep_base: bool = True) -> tuple[nn.Sequential, ...]:
    """Build stem and four stages, with their first values.

    Args:
        layers: 50, 101 or 152.
        width: channels of the stem and inner channels of the first stage; 64 in the paper.
        deep_base: the stem of three 3x3 convolutions; False: one of 7x7, as in torchvision's ResNet.

    Returns:
        Five parts, to be run one after the other; the last gives ``32 * width`` channels.

    Raises:
        UserError: another number of layers.
    """
    if layers not in BLOCKS:
        raise UserError(f"layers is {layers}, expected one of {', '.join(map(str, BLOCKS))}")
    inplanes = 2 * width if deep_base else width
    parts = [_stem(width, deep_base)]
    for place, (count, (stride, dilation)) in enumerate(zip(BLOCKS[layers], _STAGES, strict=True)):
        planes = width * 2**place
        blocks = [Bottleneck(inplanes, planes, stride=stride, dilation=dilation, project=True)]
        inplanes = planes * EXPANSION
        blocks += [
            Bottleneck(inplanes, planes, stride=1, dilation=dilation, project=False) for _ in range(count - 1)
        ]
        parts.append(nn.Sequential(*blocks))
    for part in parts:
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return tuple(parts)
