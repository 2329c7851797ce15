"""MobileNet-v2 as in TensorFlow's slim models: inverted residual blocks with a linear end.

# B batch, C channels, H, W height and width
"""

from __future__ import annotations

from torch import Tensor, nn

from channel_prune.config import NetConfig
from channel_prune.model.mobilenet_v1 import ConvNorm, MobileNet
from channel_prune.model.names import numbered

BLOCKS = (
    (16, 1),
    *((24, 2), (24, 1)),
    *((32, 2), (32, 1), (32, 1)),
    *((64, 2), (64, 1), (64, 1), (64, 1)),
    *((96, 1), (96, 1), (96, 1)),
    *((160, 2), (160, 1), (160, 1)),
    (320, 1),
)
"""Outputs and stride of each block."""
FIRST, LAST = 32, 1280
"""Channels of the convolutions before and after the blocks."""
EXPANSION = 6
"""Channels inside a block, as a multiple of its inputs; the first block has as many as inputs."""
MULTIPLE = 8
"""Numbers of channels are multiples of it."""
DECAY = 0.997
SCOPE = "MobilenetV2"


def rounded(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and not less than nine tenths of the number."""
    near = max(MULTIPLE, int(channels + MULTIPLE / 2) // MULTIPLE * MULTIPLE)
    return near + MULTIPLE if near < 0.9 * channels else near


class Block(nn.Module):
    """1 x 1 to more channels, 3 x 3 depthwise, 1 x 1 to fewer; added to its input where shapes agree.

    Args:
        inputs: channels that arrive.
        outputs: channels that it makes.
        stride: of the depthwise convolution.
        expansion: channels inside, as a multiple of the inputs; 1: the first convolution is left out.
        scope: the original's name of it.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, expansion: int, scope: str) -> None:
        super().__init__()
        inner = rounded(inputs * expansion) if expansion > 1 else inputs
        self.expand = (
            ConvNorm(inputs, inner, 1, scope=f"{scope}/expand", decay=DECAY) if expansion > 1 else None
        )
        self.depthwise = ConvNorm(
            inner, inner, 3, scope=f"{scope}/depthwise", decay=DECAY, stride=stride, depthwise=True
        )
        self.project = ConvNorm(inner, outputs, 1, scope=f"{scope}/project", decay=DECAY, linear=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride), rounded up."""
        inner = x if self.expand is None else self.expand(x)
        out = self.project(self.depthwise(inner))
        return out + x if self.residual else out


def mobilenet_v2(cfg: NetConfig) -> MobileNet:
    """The network of a configuration; widths are multiplied by its ``mobilenet_depth_mult``."""
    factor = cfg.mobilenet_depth_mult / cfg.width_divisor
    inputs = rounded(FIRST * factor)
    layers: list[nn.Module] = [ConvNorm(3, inputs, 3, scope=f"{SCOPE}/Conv", decay=DECAY, stride=2)]
    for number, (channels, stride) in enumerate(BLOCKS):
        scope, outputs = f"{SCOPE}/{numbered('expanded_conv', number)}", rounded(channels * factor)
        layers.append(Block(inputs, outputs, stride, expansion=EXPANSION if number else 1, scope=scope))
        inputs = outputs
    features = rounded(LAST * factor)
    layers.append(ConvNorm(inputs, features, 1, scope=f"{SCOPE}/Conv_1", decay=DECAY))
    return MobileNet(nn.Sequential(*layers), features, cfg.nb_classes, scope=SCOPE, dropout=0.2)
