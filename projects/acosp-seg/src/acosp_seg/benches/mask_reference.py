"""Soft channel masks in the straightforward way: what the row of the masks' benchmark compares with.

Every layer computes its own mask at every forward, with `torch.quantile`, and multiplies the convolution's
output by it; automatic differentiation keeps what it needs, a second copy of every activation included.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# B images, C channels, H x W pixels


class PlainSoftMask(nn.Module):
    """Multiplies channels by ``sigmoid((z - x0) / temperature)``; z are its standardised logits.

    Args:
        logits: Start values, one a channel (C,).
        k: How many channels are to stay.
        temperature: Softness of the mask.
    """

    def __init__(self, logits: Tensor, *, k: int, temperature: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(logits.clone())
        self.k = k
        self.temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """Mask x (B, C, H, W)."""
        channels = len(self.weight)
        if self.k == channels:
            return x * torch.ones_like(self.weight)[None, :, None, None]
        z = (self.weight - self.weight.mean()) / self.weight.std().clamp(min=1e-3)
        x0 = torch.quantile(z, 1 - self.k / channels).detach()
        mask = torch.sigmoid((z - x0) / self.temperature)
        return x * mask[None, :, None, None]


def mask_plainly(model: nn.Module, *, sparsity: float, least: int = 8) -> nn.Module:
    """Put a `PlainSoftMask` behind every convolution whose ``unprunable`` is not set; changes ``model``.

    Args:
        model: Any network of 2-D convolutions.
        sparsity: Share of the channels to remove in every layer.
        least: Channels that stay in any case, where a layer has as many.
    """
    for name, child in list(model.named_children()):
        if isinstance(child, nn.Conv2d) and not getattr(child, "unprunable", False):
            channels = child.out_channels
            k = min(max(math.ceil((1 - sparsity) * channels), least), channels)
            setattr(model, name, nn.Sequential(child, PlainSoftMask(torch.randn(channels), k=k)))
        else:
            mask_plainly(child, sparsity=sparsity, least=least)
    return model
