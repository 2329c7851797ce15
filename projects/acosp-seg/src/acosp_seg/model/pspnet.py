"""PSPNet: a dilated ResNet, pooled over a pyramid of bins, with an auxiliary head (Zhao et al., CVPR 2017).

# B batch, H height, W width, h = (H - 1) / 8 + 1, w likewise, F = 32 * base width, K classes
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acosp_seg.config import STRIDE, ModelConfig
from acosp_seg.model.network import Groups, Network, unprunable
from acosp_seg.model.resnet import trunk
from prunelab.errors import UserError


class PyramidPooling(nn.Module):
    """Average pooling over a few grids, each with a 1x1 convolution, put beside the features."""

    def __init__(self, channels: int, bins: Sequence[int]) -> None:
        super().__init__()
        reduced = channels // len(bins)
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(size),
                nn.Conv2d(channels, reduced, 1, bias=False),
                nn.BatchNorm2d(reduced),
                nn.ReLU(inplace=True),
            )
            for size in bins
        )
        self.channels = channels + reduced * len(bins)
        """Channels that leave it."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, h, w) to (B, channels, h, w): the features, then the bins in order."""
        size = x.shape[2:]
        parts = [x]
        parts += [F.interpolate(part(x), size, mode="bilinear", align_corners=True) for part in self.features]
        return torch.cat(parts, dim=1)


def _head(channels: int, inner: int, classes: int, dropout: float) -> nn.Sequential:
    """Features to logits; the last convolution gets no mask."""
    return nn.Sequential(
        nn.Conv2d(channels, inner, 3, padding=1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
        nn.Dropout2d(dropout),
        unprunable(nn.Conv2d(inner, classes, 1)),
    )


def fitting_sizes(size: int) -> tuple[int, ...]:
    """The sizes 8n+1 nearest to a number of pixels: itself if it is one, else those below and above."""
    below = max((size - 1) // STRIDE, 1) * STRIDE + 1
    return (size,) if below == size else (below, below + STRIDE)


class PSPNet(Network):
    """Logits of every pixel from an input whose sides are 8n+1 pixels.

    Args:
        cfg: layers, classes, base width, bins, dropout, zoom factor.
        criterion_ignore: label that does not count in the loss.
        deep_base: see `acosp_seg.model.resnet.trunk`.

    Raises:
        UserError: a number of layers that does not exist.
    """

    def __init__(self, cfg: ModelConfig, criterion_ignore: int = 255, *, deep_base: bool = True) -> None:
        super().__init__(cfg, criterion_ignore)
        self.deep_base = deep_base
        width = cfg.width
        parts = trunk(cfg.layers or 50, width, deep_base=deep_base)
        self.layer0, self.layer1, self.layer2, self.layer3, self.layer4 = parts
        channels = 32 * width
        self.ppm = PyramidPooling(channels, cfg.bins)
        self.cls = _head(self.ppm.channels, 8 * width, cfg.classes, cfg.dropout)
        self.aux = _head(16 * width, 4 * width, cfg.classes, cfg.dropout)

    def check_input(self, x: Tensor) -> None:
        """Refuse sides other than 8n+1, and a training batch of one picture with a 1x1 bin.

        Raises:
            UserError: with the nearest sizes, or the batch size that is needed.
        """
        for name, size in zip(("height", "width"), x.shape[2:], strict=True):
            near = fitting_sizes(size)
            if near != (size,):
                raise UserError(
                    f"input {name} is {size}, expected 8n + 1 for PSPNet: "
                    f"the nearest are {near[0]} and {near[1]}"
                )
        if self.training and x.shape[0] == 1 and min(self.cfg.bins) == 1:
            norm = self.ppm.get_submodule("features.0.2")
            if type(norm) is nn.BatchNorm2d:  # one that is shared by processes sees their batches too
                raise UserError(
                    "batch size is 1, expected at least 2 to train PSPNet: "
                    "the pyramid's 1x1 bin is normalised over the batch alone"
                )

    def groups(self) -> Groups:
        """The trunk at the base rate, pyramid and heads at the higher one."""
        return tuple(f"layer{i}" for i in range(5)), ("ppm", "cls", "aux")

    def _trunk(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) to the last two stages' features (B, F/2, h, w) and (B, F, h, w)."""
        third = self.layer3(self.layer2(self.layer1(self.layer0(x))))
        return third, self.layer4(third)

    def _zoomed(self, logits: Tensor, x: Tensor) -> Tensor:
        """Logits (B, K, h, w) at ``zoom_factor`` pixels for each of theirs; at 8 that is the input's size."""
        zoom = self.cfg.zoom_factor
        if zoom == 1:
            return logits
        size = ((x.shape[2] - 1) // STRIDE * zoom + 1, (x.shape[3] - 1) // STRIDE * zoom + 1)
        return F.interpolate(logits, size, mode="bilinear", align_corners=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to logits (B, K, H, W) at a zoom factor of 8, else smaller."""
        return self._zoomed(self.cls(self.ppm(self._trunk(x)[1])), x)

    def losses(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions, main loss and the auxiliary head's loss; both are means over pixels that count.

        Args:
            x: pictures (B, 3, H, W).
            y: labels (B, H, W). At a zoom factor below 8 every (8 / zoom)-th row and column is used. That is
                what resizing them bilinearly, as the original does, comes to at sides of 8n+1: each new pixel
                lies exactly on an old one.
        """
        self.check_input(x)
        step = STRIDE // self.cfg.zoom_factor
        y = y[:, ::step, ::step]
        third, fourth = self._trunk(x)
        logits = self._zoomed(self.cls(self.ppm(fourth)), x)
        auxiliary = self._zoomed(self.aux(third), x)
        return logits.detach().argmax(dim=1), self.criterion(logits, y), self.criterion(auxiliary, y)
