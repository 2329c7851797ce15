"""Label-smoothed cross entropy that keeps no second matrix of the logits' size."""

# N words to predict, V words of the vocabulary

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

CHUNK = 2**19
"""Values that are looked at together; what is computed on the way needs memory for so many."""


def smoothed_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    pad: int,
    smoothing: float,
    mean: bool = True,
    overwrite: bool = False,
) -> Tensor:
    """Divergence of the predicted words from the smoothed targets, KL(q ‖ p).

    q is ``1 - smoothing`` for the target and ``smoothing / (V - 1)`` for every other word, padding too.

    Args:
        logits: (..., V) of any floating-point type.
        targets: (...) the words that follow.
        pad: where it is the target, the loss is 0.
        smoothing: share of q that all other words get.
        mean: divide by the number of targets that are not ``pad``; else return the sum.
        overwrite: see `word_losses`.

    Returns:
        A number in float32, or float64 for float64 logits; 0 is its least.
    """
    kept = targets != pad
    losses = word_losses(logits, targets, smoothing=smoothing, overwrite=overwrite)
    total = losses.masked_fill(~kept, 0.0).sum()
    return total / kept.sum() if mean else total


def word_losses(
    logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, overwrite: bool = False
) -> Tensor:
    """KL(q ‖ p) of each word; without smoothing, its negative log-probability.

    Args:
        logits: (..., V).
        targets: (...) int64.
        smoothing: share of q that all other words get.
        overwrite: the backward pass puts the gradient in the place of the logits, which nobody may read
            any more (autograd raises an error where it would).

    Returns:
        (...) in float32, or float64 for float64 logits.
    """
    rows = logits.reshape(-1, logits.shape[-1])  # (..., V) -> (N, V)
    losses = _WordLosses.apply(rows, targets.reshape(-1), smoothing, overwrite)
    return losses.view(targets.shape)


class _WordLosses(torch.autograd.Function):
    """Keeps the logits and one number a row; softmax is computed again, a few rows at a time."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float, overwrite: bool) -> Tensor:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        words = logits.shape[1]
        other = smoothing / (words - 1)
        constant = (1 - smoothing) * math.log(1 - smoothing) + (smoothing * math.log(other) if other else 0.0)
        losses = torch.empty(len(logits), dtype=dtype, device=logits.device)
        normalisers = torch.empty_like(losses)
        for part in _parts(logits):
            x = logits[part].to(dtype)
            z = torch.logsumexp(x, dim=1)
            picked = x.gather(1, targets[part].unsqueeze(1)).squeeze(1)
            # -sum(q log p) with log p = x - z; the target's own share is 1 - smoothing.
            value = z - (1 - smoothing - other) * picked
            if other:
                value -= other * x.sum(dim=1)
            losses[part], normalisers[part] = value + constant, z
        ctx.save_for_backward(logits, targets, normalisers)
        ctx.smoothing, ctx.other, ctx.overwrite = smoothing, other, overwrite
        return losses

    @staticmethod
    def backward(ctx: Any, *outward: Tensor) -> tuple[Tensor, None, None, None]:
        logits, targets, normalisers = ctx.saved_tensors
        gradient = logits if ctx.overwrite else torch.empty_like(logits)
        for part in _parts(logits):
            scale = outward[0][part].unsqueeze(1)
            p = torch.sub(logits[part], normalisers[part].unsqueeze(1)).exp_()
            if ctx.other:
                p -= ctx.other
            p.scatter_add_(1, targets[part].unsqueeze(1), _rest(p, 1 - ctx.smoothing - ctx.other))
            gradient[part] = p.mul_(scale)
        return gradient, None, None, None


def _rest(like: Tensor, share: float) -> Tensor:
    return like.new_full((len(like), 1), -share)


def _parts(logits: Tensor) -> list[slice]:
    """Rows that are looked at together."""
    rows = max(1, CHUNK // logits.shape[1])
    return [slice(start, start + rows) for start in range(0, len(logits), rows)]
