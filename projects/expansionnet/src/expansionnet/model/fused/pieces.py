"""The small pieces of a layer: the gate that joins both paths, feed-forward, and the residual.

# B batch, L tokens or words, D width, H hidden width
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from expansionnet.model.dropout import Dropout, Kept
from expansionnet.model.fused.products import outer, times
from prunelab import onednn


def usable(x: Tensor) -> bool:
    """Whether the functions here take this step: it has gradients, but no autocast and no compiler."""
    return (
        torch.is_grad_enabled()
        and not torch.is_autocast_enabled(x.device.type)
        and not torch.compiler.is_compiling()
    )


def faster(x: Tensor, weight: Tensor) -> bool:
    """Whether `linear` is faster than torch's, in a step that is `usable`."""
    if not usable(x) or x.dtype != torch.float32 or x.device.type != "cpu":
        return False
    return x.numel() > 0 and weight.numel() >= onednn.LEAST and onednn.available()


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, a: Tensor, b: Tensor, selector: Tensor, drop_a: Dropout, drop_b: Dropout
    ) -> Tensor:
        kept_a, kept_b = drop_a.keep(a.shape, a.device), drop_b.keep(b.shape, b.device)
        difference, b = kept_a.times_(a.clone()), kept_b.times_(b.clone())
        difference -= b
        share = torch.sigmoid(selector)
        ctx.scales = kept_a.scale, kept_b.scale
        ctx.save_for_backward(share, difference, kept_a.mask, kept_b.mask)
        return b.addcmul_(share, difference)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        share, difference, mask_a, mask_b = ctx.saved_tensors
        (grad,) = grads
        grad_a = grad * share
        grad_b = grad - grad_a
        grad_selector = (grad_a * difference).mul_(1 - share)
        Kept(mask=mask_a, scale=ctx.scales[0]).times_(grad_a)
        Kept(mask=mask_b, scale=ctx.scales[1]).times_(grad_b)
        return grad_a, grad_b, grad_selector, None, None


def gate(a: Tensor, b: Tensor, selector: Tensor, drop_a: Dropout, drop_b: Dropout) -> Tensor:
    """Join both paths of an expansion.

    Args:
        a: what path a mixed back, before its dropout (B, L, D).
        b: the same of path b.
        selector: the share of path a, before the sigmoid (B, L, D).
        drop_a: dropout of path a, called first.
        drop_b: dropout of path b.

    Returns:
        (B, L, D).
    """
    return _Gate.apply(a, b, selector, drop_a, drop_b)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, weight)
        return times(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        grad, rows = grads[0].reshape(-1, len(weight)), x.reshape(-1, x.shape[-1])
        grad_x = times(grad, weight.t()).view_as(x) if ctx.needs_input_grad[0] else None
        return grad_x, outer(grad, rows), grad.sum(0)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear map whose products, those of the gradients too, go to oneDNN; (..., I) to (..., O)."""
    return _Linear.apply(x, weight, bias)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, w_1: Tensor, b_1: Tensor, w_2: Tensor, b_2: Tensor, drop: Dropout
    ) -> Tensor:
        hidden = times(x.flatten(0, 1), w_1, b_1).relu_()  # (B*L, H)
        kept = drop.keep((*x.shape[:-1], len(w_1)), x.device)
        if kept.mask is not None:
            hidden *= kept.mask.view_as(hidden)
        ctx.scale = kept.scale
        ctx.save_for_backward(x, w_1, w_2, hidden)
        return times(hidden, w_2 * kept.scale, b_2).view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, w_1, w_2, hidden = ctx.saved_tensors
        grad, rows = grads[0].flatten(0, 1), x.flatten(0, 1)
        grad_b_2 = grad.sum(0)
        grad = grad * ctx.scale
        # The hidden values are 0 where the ReLU or the dropout made them so, and nowhere else.
        grad_hidden = times(grad, w_2.t()).mul_(hidden.sign())
        grad_w_2, grad_w_1, grad_b_1 = outer(grad, hidden), outer(grad_hidden, rows), grad_hidden.sum(0)
        return times(grad_hidden, w_1.t()).view_as(x), grad_w_1, grad_b_1, grad_w_2, grad_b_2, None


def feed_forward(x: Tensor, first: nn.Linear, second: nn.Linear, drop: Dropout) -> Tensor:
    """Linear map, ReLU, dropout, linear map, (B, L, D) to (B, L, D); of (B, L, H) one tensor is kept."""
    return _FeedForward.apply(x, first.weight, first.bias, second.weight, second.bias, drop)


class _AddDropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, update: Tensor, drop: Dropout) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        kept = drop.keep(update.shape, update.device)
        ctx.scale = kept.scale
        ctx.save_for_backward(kept.mask)
        return kept.times_(update.clone()).add_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (mask,) = ctx.saved_tensors
        return grads[0], Kept(mask=mask, scale=ctx.scale).times_(grads[0].clone()), None


def add_dropped(x: Tensor, update: Tensor, drop: Dropout) -> Tensor:
    """``x + drop(update)``, both (B, L, D)."""
    return _AddDropped.apply(x, update, drop) if drop.active else x + update
