"""Dropout that is drawn quickly on a CPU, and kept in a byte an element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

WHOLE = slice(None)
"""All samples of a batch."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a dropout multiplies by."""

    mask: Tensor | None = None
    """1 where something is kept and 0 elsewhere, uint8: bytes multiply faster than booleans. None: all is."""
    scale: float = 1.0
    """What the kept is multiplied by."""

    def times_(self, x: Tensor, part: slice = WHOLE) -> Tensor:
        """Multiply in place by the multiplier of a part of the batch."""
        return x if self.mask is None else x.mul_(self.mask[part]).mul_(self.scale)


class Dropout(nn.Dropout):
    """A dropout; written backward passes ask it with `keep` what it leaves, once in each forward pass."""

    @property
    def active(self) -> bool:
        """Whether it does anything."""
        return self.training and self.p > 0

    def keep(self, shape: Sequence[int], device: torch.device) -> Kept:
        """Draw what is kept; on a CPU torch's own draw takes four times as long.

        Args:
            shape: of what is dropped from.
            device: where that is.
        """
        if not self.active:
            return Kept()
        mask = torch.rand(tuple(shape), device=device) >= self.p
        return Kept(mask=mask.view(torch.uint8), scale=1 / (1 - self.p) if self.p < 1 else 0.0)

    def forward(self, input: Tensor) -> Tensor:
        """Drop from a tensor of any shape."""
        if not self.active or input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        kept = self.keep(input.shape, input.device)
        return input if kept.mask is None else input * kept.mask * kept.scale
