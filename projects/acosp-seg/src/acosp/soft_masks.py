"""The arithmetic of soft top-k masks, for many layers at once.

For logits w of C channels, of which k are to stay, at temperature tau::

    z    = (w - mean(w)) / max(std(w), 1e-3)        std unbiased
    x0   = quantile(z, 1 - k / C)                   linear, no gradient flows through it
    mask = sigmoid((z - x0) / tau)

Exactly k of the z lie above x0 if no two are equal.

# L layers, C channels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LEAST_STD = 1e-3
"""Standard deviations below this count as this."""


@dataclass(frozen=True, kw_only=True)
class SoftMask:
    """The mask of one layer as plain numbers, and what its gradient needs."""

    mask: Tensor
    """(C,), in (0, 1)."""
    split: Tensor
    """(1,), the level x0 in units of z."""
    z: Tensor
    """(C,), standardised logits."""
    slope: Tensor
    """(1,), 1 / (tau * max(std, floor))."""
    through_std: Tensor
    """(1,), 1 / (C - 1) where the gradient flows through the standard deviation, 0 below its floor."""


@torch.no_grad()
def soft_masks(logits: Sequence[Tensor], k: int, temperature: float) -> list[SoftMask]:
    """Masks of layers of equal width; but for rounding, a layer's numbers do not depend on its company.

    Args:
        logits: L tensors (C,) of one dtype and device, C > k.
        k: How many channels stay.
        temperature: Above 0.
    """
    w = torch.stack(tuple(logits))  # (L, C)
    if w.dtype in (torch.float16, torch.bfloat16):
        w = w.float()
    channels = w.shape[1]
    std, mean = torch.std_mean(w, dim=1, keepdim=True)  # (L, 1)
    scale = std.clamp(min=LEAST_STD)
    z = (w - mean) / scale
    split = torch.quantile(z, 1 - k / channels, dim=1, keepdim=True)  # one sort for all layers
    mask = torch.sigmoid((z - split) / temperature)
    slope = (scale * temperature).reciprocal()
    through_std = (std > LEAST_STD).to(w.dtype) / (channels - 1)
    rows = (part.unbind(0) for part in (mask, split, z, slope, through_std))
    names = ("mask", "split", "z", "slope", "through_std")
    return [SoftMask(**dict(zip(names, row, strict=True))) for row in zip(*rows, strict=True)]


class _Attach(torch.autograd.Function):
    """Gives a mask that was computed without a graph its gradient with respect to the logits.

    Each layer has a node of its own, so layers whose masks were computed together stay independent: any of
    them may run forwards or backwards, once, many times or never.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, mask: Tensor, z: Tensor, slope: Tensor, through_std: Tensor
    ) -> Tensor:
        ctx.save_for_backward(mask, z, slope, through_std)
        ctx.dtype = weight.dtype
        return mask.to(weight.dtype, copy=True)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        mask, z, slope, through_std = ctx.saved_tensors
        s = torch.ops.aten.sigmoid_backward(grad.to(mask.dtype), mask)  # d/dz, but for 1 / tau
        s = s - s.mean() - z * ((s * z).sum() * through_std)
        return (s * slope).to(ctx.dtype), None, None, None, None


def attach(weight: Tensor, soft: SoftMask) -> Tensor:
    """The mask (C,) in the logits' dtype, as a function of the logits ``weight`` for differentiation."""
    if not (weight.requires_grad and torch.is_grad_enabled()):
        return soft.mask.to(weight.dtype)
    mask = _Attach.apply(weight, soft.mask, soft.z, soft.slope, soft.through_std)
    assert isinstance(mask, Tensor)
    return mask
