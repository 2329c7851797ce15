"""MobileNet-v1 as in TensorFlow's slim models.

Every convolution is followed by batch norm and ReLU6; padding is TensorFlow's SAME.

# B batch, C channels, H, W height and width, K classes
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from channel_prune.config import NetConfig
from channel_prune.model.init import truncated_normal_
from channel_prune.model.layers import SameConv
from channel_prune.model.names import SLIM, variables

PAIRS = (
    (1, 64),
    (2, 128),
    (1, 128),
    (2, 256),
    (1, 256),
    (2, 512),
    *((1, 512),) * 5,
    (2, 1024),
    (1, 1024),
)
"""Stride of the depthwise and outputs of the pointwise convolution of each pair."""
LEAST = 8
"""Channels that a layer has at least."""
DEVIATION = 0.09
"""Of first weights."""
SCOPE = "MobilenetV1"


class ConvNorm(nn.Module):
    """A convolution, batch norm and, unless ``linear``, ReLU6.

    Args:
        inputs: channels that it reads.
        outputs: channels that it makes.
        kernel: its rows and columns.
        scope: the original's name of it.
        decay: how much of the running statistics a training step keeps.
        stride: rows and columns from one output to the next.
        depthwise: whether each channel has a kernel of its own.
        linear: whether the ReLU6 is left out.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        scope: str,
        decay: float,
        stride: int = 1,
        depthwise: bool = False,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.scope, self.linear = scope, linear
        self.same = SameConv(inputs, outputs, kernel, stride=stride, groups=inputs if depthwise else 1)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=1 - decay)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride), rounded up."""
        out = self.bn(self.same(x))
        return out if self.linear else F.relu6(out)


class MobileNet(nn.Module):
    """What both versions share: the end, first weights, and names.

    Args:
        body: the layers up to the last feature map, whose `ConvNorm` say what they are called.
        features: channels of that map.
        classes: outputs.
        scope: the original's name of the network.
        dropout: share of features that training drops.
    """

    def __init__(
        self, body: nn.Sequential, features: int, classes: int, *, scope: str, dropout: float
    ) -> None:
        super().__init__()
        self.scope = scope
        self.body = body
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Conv2d(features, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                truncated_normal_(module.weight, DEVIATION)
        assert self.logits.bias is not None
        nn.init.zeros_(self.logits.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, K)."""
        x = self.body(x).mean((2, 3), keepdim=True)
        return self.logits(self.dropout(x)).flatten(1)

    def original_names(self) -> dict[str, str]:
        """The original's name of each weight, in its order of creation."""
        return variables(self._scoped(), SLIM)

    def prune_order(self) -> list[str]:
        """Convolutions that are not depthwise, in the original's order; the classifier is the last one."""
        convs = ((path, module) for path, module in self.named_modules() if isinstance(module, nn.Conv2d))
        return [path for path, module in convs if module.groups == 1]

    def _scoped(self) -> Iterator[tuple[str, nn.Module, str]]:
        for path, module in self.named_modules():
            if isinstance(module, ConvNorm):
                yield f"{path}.same.conv", module.same.conv, module.scope
                yield f"{path}.bn", module.bn, module.scope
        yield "logits", self.logits, f"{self.scope}/Logits/Conv2d_1c_1x1"


def mobilenet_v1(cfg: NetConfig) -> MobileNet:
    """The network of a configuration; widths are multiplied by its ``mobilenet_depth_mult``."""
    factor = cfg.mobilenet_depth_mult / cfg.width_divisor

    def depth(channels: int) -> int:
        return max(int(channels * factor), LEAST)

    decay = 0.9997
    inputs = depth(32)
    layers: list[nn.Module] = [ConvNorm(3, inputs, 3, scope=f"{SCOPE}/Conv2d_0", decay=decay, stride=2)]
    for number, (stride, channels) in enumerate(PAIRS, 1):
        name, outputs = f"{SCOPE}/Conv2d_{number}", depth(channels)
        layers += [
            ConvNorm(
                inputs,
                inputs,
                3,
                scope=f"{name}_depthwise",
                decay=decay,
                stride=stride,
                depthwise=True,
            ),
            ConvNorm(inputs, outputs, 1, scope=f"{name}_pointwise", decay=decay),
        ]
        inputs = outputs
    return MobileNet(nn.Sequential(*layers), inputs, cfg.nb_classes, scope=SCOPE, dropout=0.001)
