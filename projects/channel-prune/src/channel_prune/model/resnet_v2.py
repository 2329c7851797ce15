"""The original's residual networks: pre-activation form, for small pictures and for ImageNet's.

Batch norm and ReLU come before each convolution, and nothing after a sum. The first block of every stage has
a 1 x 1 convolution on its shortcut, also where shapes agree.

# B batch, C channels, H, W height and width, K classes
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from channel_prune.config import NetConfig
from channel_prune.model.init import fan_in_, glorot_
from channel_prune.model.layers import SameMaxPool
from channel_prune.model.names import LAYERS, numbered, variables

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
"""Blocks of the four stages for ImageNet, by depth."""
BOTTLENECK_FROM = 50
"""Depth from which blocks have three convolutions."""
WIDENING = 4
"""Outputs of such a block, as a multiple of its inner channels."""
SCOPE = "resnet_model"


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=1 - 0.997)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Symmetric padding: the original pads so itself where the stride is not 1."""
    return nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=False)


class Block(nn.Module):
    """Two 3 x 3 convolutions, or 1 x 1, 3 x 3 and 1 x 1, beside a shortcut.

    Layers are made in the order in which the original makes them, which numbers them.

    Args:
        inputs: channels that arrive.
        width: channels inside.
        stride: of the shortcut and of the first 3 x 3 convolution.
        first: whether the shortcut has a convolution.
        bottleneck: whether there are three convolutions.
    """

    def __init__(self, inputs: int, width: int, stride: int, *, first: bool, bottleneck: bool) -> None:
        super().__init__()
        outputs = width * WIDENING if bottleneck else width
        self.bn1 = _norm(inputs)
        self.shortcut = _conv(inputs, outputs, 1, stride) if first else None
        self.conv1 = _conv(inputs, width, 1) if bottleneck else _conv(inputs, width, 3, stride)
        self.bn2 = _norm(width)
        self.conv2 = _conv(width, width, 3, stride if bottleneck else 1)
        self.bn3 = _norm(width) if bottleneck else None
        self.conv3 = _conv(width, outputs, 1) if bottleneck else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        activated = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        out = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        if self.bn3 is not None and self.conv3 is not None:
            out = self.conv3(F.relu(self.bn3(out)))
        return out + shortcut


class ResNetV2(nn.Module):
    """Logits of a picture.

    Args:
        blocks: blocks of each stage.
        width: inner channels of the first stage; each further stage has twice as many.
        classes: outputs.
        bottleneck: whether blocks have three convolutions.
        large: a 7 x 7 convolution with stride 2 and a pool at the start, for pictures of 224 pixels; else a
            3 x 3 convolution.
    """

    def __init__(
        self, blocks: Sequence[int], width: int, classes: int, *, bottleneck: bool, large: bool
    ) -> None:
        super().__init__()
        self.conv = _conv(3, width, 7, 2) if large else _conv(3, width, 3)
        # no ReLU stands before this pool: maxima may be negative
        self.pool = SameMaxPool(3, 2) if large else None
        self.stages = nn.ModuleList()
        inputs = width
        for stage, count in enumerate(blocks):
            inner, stride = width * 2**stage, 1 if stage == 0 else 2
            layers = []
            for place in range(count):
                first = place == 0
                layers.append(
                    Block(inputs, inner, stride if first else 1, first=first, bottleneck=bottleneck)
                )
                inputs = inner * (WIDENING if bottleneck else 1)
            self.stages.append(nn.Sequential(*layers))
        self.bn = _norm(inputs)
        self.dense = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_in_(module.weight)
        glorot_(self.dense)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, K)."""
        x = self.conv(x)
        if self.pool is not None:
            x = self.pool(x)
        for stage in self.stages:
            x = stage(x)
        return self.dense(F.relu(self.bn(x)).mean((2, 3)))

    def original_names(self) -> dict[str, str]:
        """The original's name of each weight, in its order of creation."""
        return variables(self._scoped(), LAYERS)

    def prune_order(self) -> list[str]:
        """Convolutions in the original's order."""
        return [path for path, module in self.named_modules() if isinstance(module, nn.Conv2d)]

    def _scoped(self) -> Iterator[tuple[str, nn.Module, str]]:
        stems = {nn.Conv2d: "conv2d", nn.BatchNorm2d: "batch_normalization", nn.Linear: "dense"}
        counts = dict.fromkeys(stems, 0)
        for path, module in self.named_modules():
            kind = next((kind for kind in stems if isinstance(module, kind)), None)
            if kind is not None:
                yield path, module, f"{SCOPE}/{numbered(stems[kind], counts[kind])}"
                counts[kind] += 1


def resnet_v2(cfg: NetConfig) -> ResNetV2:
    """The network of a configuration: ``cifar`` (depth 6n + 2) or ``ilsvrc12``."""
    if cfg.dataset_form == "cifar":
        blocks, width = ((cfg.resnet_size - 2) // 6,) * 3, 16
    else:
        blocks, width = BLOCKS[cfg.resnet_size], 64
    large = cfg.dataset_form == "ilsvrc12"
    return ResNetV2(
        blocks,
        max(1, width // cfg.width_divisor),
        cfg.nb_classes,
        bottleneck=large and cfg.resnet_size >= BOTTLENECK_FROM,
        large=large,
    )


def tiny(cfg: NetConfig) -> ResNetV2:
    """A network for trying things out: depth 8, half of ResNet-20's width, and quicker batch norms.

    With the momentum of the original, running statistics need a thousand steps to forget where they began.
    """
    width = max(1, 8 // cfg.width_divisor)
    model = ResNetV2((1, 1, 1), width, cfg.nb_classes, bottleneck=False, large=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return model
