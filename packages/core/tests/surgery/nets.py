"""Small networks with masked channels and statistics as if they had been trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Mask(nn.Module):
    """Multiplies channels by zeros and ones."""

    def __init__(self, channels: int, kept: int) -> None:
        super().__init__()
        mask = torch.zeros(channels)
        mask[torch.randperm(channels)[:kept]] = 1
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask.view(-1, 1, 1)


def unit(inputs: int, outputs: int, kept: int, size: int = 3, **options: object) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, bias=False, **options)
    return nn.Sequential(conv, Mask(outputs, kept), nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Two blocks around shortcuts whose masks differ, dilated, with a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 12, 4, stride=2, padding=1)
        self.a1 = unit(12, 8, 3, padding=2, dilation=2)
        self.a2 = unit(8, 12, 4, 1)
        self.b1 = unit(12, 8, 3, padding=1)
        self.b2 = unit(8, 12, 4, padding="same")
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.a2(F.relu(self.a1(x))))
        y = F.relu(self.b1(x), inplace=True)
        x = F.leaky_relu(self.b2(y) + x, 0.1)
        return self.head(x.mean((2, 3)))


class Mixed(nn.Module):
    """Concatenation, depthwise, grouped and transposed convolutions, pooling of every kind, resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 8, 5, padding=1)
        self.depth = unit(8, 8, 6, padding=1, groups=8)
        self.grouped = unit(16, 12, 9, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(12, 8, 3, stride=2, padding=1, output_padding=1)
        self.up_mask, self.up_norm = Mask(8, 3), nn.BatchNorm2d(8)
        self.norm = nn.BatchNorm2d(16)
        self.last = nn.Conv2d(16, 4, 3, padding=1)
        self.pool = nn.AvgPool2d(3, 2, 1)
        self.drop = nn.Dropout2d(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        y = torch.cat([x, F.hardswish(self.depth(x))], 1)
        z = torch.sigmoid(self.grouped(y))
        z = F.relu(self.up_norm(self.up_mask(self.up(self.pool(z)))))
        z = F.interpolate(z, size=x.shape[2:], mode="bilinear", align_corners=False)
        pooled = F.adaptive_avg_pool2d(x, 3) * 0.5 + 1
        pooled = F.interpolate(pooled, size=(x.size(2), x.size(3)), mode="nearest")
        y = self.norm(torch.cat([z, pooled], 1))
        y = self.drop(F.relu(y))
        return F.max_pool2d(self.last(y), 3, 2, padding=1)


class Attending(nn.Module):
    """Channels are weighed by numbers that are computed from them, and pixels by a plane."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 12, 5, padding=1)
        self.squeeze, self.excite = nn.Linear(12, 6), nn.Linear(6, 4)
        self.inner = unit(12, 12, 6, padding=1)
        self.where = nn.Conv2d(12, 1, 3, padding=1)
        self.last = nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.inner(x).mul(torch.sigmoid(self.where(x)))
        y = y * F.adaptive_max_pool2d(y, 1)
        head = self.excite(torch.tanh(self.squeeze(x.mean(dim=(2, 3)))))
        return self.last(F.gelu(y + 1)).mean((2, 3)) + head


class Unpooling(nn.Module):
    """An encoder and a decoder of which each prunes other channels than the other."""

    def __init__(self) -> None:
        super().__init__()
        self.d1, self.d2 = unit(3, 10, 4, padding=1), unit(10, 10, 4, padding=1)
        self.u2, self.u1 = unit(10, 10, 4, padding=1), unit(10, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 4, 1)
        self.pool = nn.MaxPool2d(2, 2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.d1(x))
        first = x.size()
        x, i1 = self.pool(x)
        x = F.relu(self.d2(x))
        second = x.shape
        x, i2 = F.max_pool2d(x, 2, 2, return_indices=True)
        x = F.relu(self.u2(self.unpool(x, i2, output_size=second)))
        wide = F.max_unpool2d(x, i1, 2, 2, output_size=first[-2:])
        return self.last(F.relu(self.u1(wide))), torch.tanh(wide)


def trained(model: nn.Module) -> nn.Module:
    """Give batch norms statistics and shifts that are not those of a fresh network, in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.uniform_(module.weight, -1, 1)
    return model.eval()
