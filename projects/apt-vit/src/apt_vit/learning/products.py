"""Linear maps and dropout of training on a processor, faster than torch's own.

Torch multiplies float32 matrices on processors with MKL, which takes oneDNN's double time on those of another
maker than its own; and it draws dropout one number after the other from 24 random bits each, which takes
longer than the products around it. `Faster` replaces both in any module, gradients included.

# M rows, I inputs, O outputs
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from prunelab import onednn

LEAST = 2**12
"""Numbers of a weight from which on its products go to oneDNN."""
BITS = 16
"""Random bits of an element's dropout; rates are rounded to a multiple of 2**-16."""


class Faster(onednn.Replacing):
    """Within ``with Faster(...):`` linear maps go to oneDNN where that is faster.

    Args:
        dropout: whether dropout, too, may be drop otherwise than torch draws it.
    """

    def __init__(self, *, dropout: bool) -> None:
        super().__init__({F.linear: linear} | ({F.dropout: drop} if dropout else {}))


# --- linear maps ---


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` of x (..., I), by oneDNN where that `prunelab.onednn.suits`."""
    if weight.numel() < LEAST or not onednn.suits(x):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])  # (M, I)
    found: Any = (
        _Linear.apply(rows, weight, bias) if torch.is_grad_enabled() else onednn.mapped(rows, weight, bias)
    )
    return found.view(*x.shape[:-1], len(weight))


class _Linear(torch.autograd.Function):
    """A linear map whose three products are all oneDNN's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn.mapped(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = ctx.saved_tensors
        needed: Sequence[bool] = ctx.needs_input_grad
        g: Tensor = grads[0].contiguous()
        return (
            onednn.mapped(g, weight.t()) if needed[0] else None,  # (M, O) times (O, I)
            onednn.mapped(g.t(), x.t()) if needed[1] else None,  # (O, M) times (M, I)
            g.sum(0) if needed[2] else None,
        )


# --- dropout ---


def drop(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """`torch.nn.functional.dropout`; on a processor four elements share one random number of 64 bits."""
    limit = round(p * 2**BITS)
    if not training or limit == 0 or inplace or x.device.type != "cpu" or limit == 2**BITS:
        return F.dropout(x, p, training, inplace)
    words = torch.empty(-(-x.numel() * BITS // 64), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)  # every value of -2**15 ... 2**15 - 1 alike
    stays = bits >= limit - 2 ** (BITS - 1)
    found: Any = _Dropout.apply(x, stays, 2**BITS / (2**BITS - limit))
    return found


class _Dropout(torch.autograd.Function):
    """A product with a mask and a number, which keeps a byte an element for its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stays: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(stays)
        ctx.scale = scale
        return (x * stays).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (stays,) = ctx.saved_tensors
        return (grads[0] * stays).mul_(ctx.scale), None, None
