"""SSD with a VGG-16 backbone: boxes and their classes from six feature layers.

| part | layers | rows at 300 |
|---|---|---|
| backbone | conv1 to conv5 of VGG-16; pool5 3x3, stride 1; fc6 3x3, dilated by 6; fc7 1x1 | 38, 19 |
| additional | conv8, conv9: 1x1, then 3x3 with stride 2 | 10, 5 |
| | conv10, conv11: 1x1, then 3x3 without padding | 3, 1 |
| heads | of each feature layer, both 3x3: 4 offsets and K logits for each of its anchors | 8732 anchors |

All convolutions have biases, all but the heads a ReLU behind them, and TensorFlow's SAME padding unless said
otherwise. conv4_3 is a feature layer after it is divided by its length over the channels and multiplied by a
learned scale; conv5 reads it as it is. Pictures are blue, green, red, in 0 to 255 less their mean
(`channel_prune.preprocess`). For smaller pictures there are fewer layers; see
`channel_prune.detect.anchors`.

# B batch, C channels, H, W height and width, A anchors, K classes with background
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from channel_prune.config import NetConfig
from channel_prune.detect.anchors import anchor_layers
from channel_prune.model.init import glorot_
from channel_prune.model.layers import SameMaxPool, SamePad

SCOPE = "ssd300"
"""First part of the original's names."""
BACKBONE = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Widths of the blocks conv1 to conv5."""
FC = 1024
"""Width of fc6 and fc7."""
ADDITIONAL = ((256, 512), (128, 256), (128, 256), (128, 256))
"""Widths of the blocks conv8 to conv11."""
DILATION = 6
FIRST_SCALE = 20.0
"""Initial value of the scale of conv4_3 in a network of the published width."""
SCALE_DECAY = 0.1
"""How much that scale decays, compared with kernels."""
LEAST_SQUARE = 1e-10
"""Squared lengths below it count as this."""


class Normalised(nn.Module):
    """Features divided by their length over the channels, times a learned scale for each channel.

    Args:
        channels: C.
        scale: its first value.
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        length = x.square().sum(dim=1, keepdim=True).clamp(min=LEAST_SQUARE)  # (B, 1, H, W)
        return x * length.rsqrt() * self.weights.view(1, -1, 1, 1)


class Ssd(nn.Module):
    """The detector.

    Args:
        cfg: ``nb_classes`` K with background, ``image_size``, ``width_divisor``, which divides all widths but
            those of the heads, and ``batch_norm``, with which it is another network than the original's.

    Raises:
        UserError: the pictures are too small.
    """

    def __init__(self, cfg: NetConfig) -> None:
        super().__init__()
        self.classes, self.image_size = cfg.nb_classes, cfg.image_size
        layers = anchor_layers(cfg.image_size)
        width, inputs, bias = _Widths(cfg.width_divisor), 3, not cfg.batch_norm
        for number, widths in enumerate(BACKBONE, 1):
            block = _block(f"conv{number}", [inputs, *width(*widths)], bias=bias)
            self.add_module(f"conv{number}", block)
            inputs = width(widths[-1])[0]
            if number == 4:
                # Of fewer channels each has more of the length: this leaves them as large as published ones.
                self.conv4_3_scale = Normalised(inputs, FIRST_SCALE / math.sqrt(cfg.width_divisor))
        features = [inputs]
        (inner,) = width(FC)
        self.fc6 = nn.Conv2d(inputs, inner, 3, padding=DILATION, dilation=DILATION, bias=bias)
        self.fc7 = nn.Conv2d(inner, inner, 1, bias=bias)
        features.append(inner)
        self.additional_layers = nn.Module()
        for number, widths in enumerate(ADDITIONAL[: len(layers) - 2], 8):
            stride, name = 2 if number < 10 else 1, f"conv{number}"
            block = _block(name, [features[-1], *width(*widths)], bias=bias, kernels=(1, 3), stride=stride)
            self.additional_layers.add_module(name, block)
            features.append(width(widths[-1])[0])
        norms = {
            path.rpartition(".")[2]: nn.BatchNorm2d(layer.out_channels)
            for path, layer in self.named_modules()
            if isinstance(layer, nn.Conv2d) and cfg.batch_norm
        }
        self.multibox_head = nn.Module()
        for place, (layer, channels) in enumerate(zip(layers, features, strict=True)):
            for kind, numbers in (("loc", 4), ("cls", self.classes)):
                head = nn.Conv2d(channels, numbers * layer.depth, 3, padding=1)
                self.multibox_head.add_module(f"{kind}_{place}", head)
        self.norms = nn.ModuleDict(norms)
        self.halve, self.same = SameMaxPool(2, 2), SameMaxPool(3, 1)
        self.pad = SamePad(3, 2)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                glorot_(layer)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Pictures (B, 3, H, W) to ``loc``, offsets (B, A, 4), and ``cls``, logits (B, A, K)."""
        features = self.features(x)
        parts: dict[str, list[Tensor]] = {"loc": [], "cls": []}
        for place, feature in enumerate(features):
            for kind, found in parts.items():
                head = self.multibox_head.get_submodule(f"{kind}_{place}")
                # (B, depth n, H, W) to (B, H W depth n), n numbers an anchor
                found.append(head(feature).permute(0, 2, 3, 1).flatten(1))
        sizes = {"loc": 4, "cls": self.classes}
        # (B, A n) to (B, A, n)
        return {kind: torch.cat(found, 1).unflatten(1, (-1, sizes[kind])) for kind, found in parts.items()}

    def features(self, x: Tensor) -> list[Tensor]:
        """Pictures (B, 3, H, W) to the feature layers, each (B, C, H', W')."""
        x = self._through(self.get_submodule("conv1"), x)
        for number in (2, 3, 4):
            x = self._through(self.get_submodule(f"conv{number}"), self.halve(x))
        found = [self.conv4_3_scale(x)]
        x = self.same(self._through(self.get_submodule("conv5"), self.halve(x)))
        x = self._layer("fc7", self.fc7, self._layer("fc6", self.fc6, x))
        found.append(x)
        for block in self.additional_layers.children():
            x = self._through(block, x)
            found.append(x)
        return found

    def _through(self, block: nn.Module, x: Tensor) -> Tensor:
        """Through a block's convolutions."""
        for name, layer in block.named_children():
            x = self._layer(name, layer, x)
        return x

    def _layer(self, name: str, layer: nn.Module, x: Tensor) -> Tensor:
        """Through a convolution, its batch norm if there is one, and a ReLU."""
        x = layer(self.pad(x) if layer.stride == (2, 2) else x)
        return F.relu(self.norms[name](x) if self.norms else x)

    def prune_order(self) -> list[str]:
        """Names of the convolutions, in the order in which the original makes them: that of pruning."""
        return [name for name, module in self.named_modules() if isinstance(module, nn.Conv2d)]

    def original_names(self) -> dict[str, str]:
        """The original's name of each weight, in its order of creation; none with batch norms."""
        found = {}
        if self.norms:
            return found
        for name in self.state_dict():
            *scopes, kind = name.split(".")
            found[name] = "/".join([SCOPE, *scopes, {"weight": "kernel"}.get(kind, kind)])
        return found

    def decay_factors(self) -> dict[str, float]:
        """What decays less than kernels and biases: the learned scale."""
        factors = {name: decay_factor(name) for name, _ in self.named_parameters()}
        return {name: factor for name, factor in factors.items() if factor != 1}


def decay_factor(name: str) -> float:
    """The factor of a variable in the loss's sum of squares, by its name, the original's or ours."""
    if "_bn" in name:
        return 0.0
    return SCALE_DECAY if "conv4_3_scale" in name else 1.0


def ssd_vgg16(cfg: NetConfig) -> Ssd:
    """The network of a configuration."""
    return Ssd(cfg)


class _Widths:
    """Widths of layers, divided; at least one channel."""

    def __init__(self, divisor: int) -> None:
        self.divisor = divisor

    def __call__(self, *widths: int) -> list[int]:
        return [max(width // self.divisor, 1) for width in widths]


def _block(
    name: str,
    widths: Sequence[int],
    *,
    bias: bool,
    kernels: Sequence[int] = (3, 3, 3),
    stride: int | None = None,
) -> nn.Sequential:
    """Convolutions ``NAME_1``, ... from widths to widths; with a ``stride`` the last one is not padded."""
    last = len(widths) - 2
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for place, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        kernel, bare = kernels[place], stride is not None and place == last
        step = stride if stride is not None and bare else 1
        padding = 0 if bare else kernel // 2
        layers[f"{name}_{place + 1}"] = nn.Conv2d(inputs, outputs, kernel, step, padding, bias=bias)
    return nn.Sequential(layers)
