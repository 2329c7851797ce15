"""Static expansion between its linear maps and its gate.

# B batch, b part of it, S tokens, D width, P vectors
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from expansionnet.model.dropout import Dropout, Kept
from expansionnet.model.fused.chunks import chunks
from expansionnet.model.fused.products import batched


@dataclass(frozen=True, kw_only=True)
class _Constants:
    groups: tuple[int, ...]
    eps: float
    drops: tuple[Dropout, Dropout, Dropout]


class _Weights:
    """Both normalised forms (b, P, S) of one path's scores, and their way back.

    Path b takes the negative scores, and divides them by negative sums.
    """

    def __init__(self, scores: Tensor, sign: int, seen: Tensor | None, constants: _Constants) -> None:
        self.seen = seen
        self.groups = constants.groups
        count, eps = len(self.groups), sign * constants.eps
        own = scores.clamp(min=0) if sign > 0 else scores.clamp(max=0)
        masked = own if seen is None else own * seen
        self.forward_sum = masked.sum(-1, keepdim=True).add_(eps)  # (b, P, 1)
        self.forward = masked / self.forward_sum
        self.backward = torch.empty_like(own)
        # Over the number of groups, by which the original divides what is mixed.
        self.group_sums = [
            p.sum(1, keepdim=True).add_(eps).mul_(count) for p in self._split(own)
        ]  # (b, 1, S)
        parts = zip(self._split(own), self.group_sums, self._split(self.backward), strict=True)
        for part, total, out in parts:
            torch.div(part, total, out=out)

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(self.groups, dim=1)

    def gradient(self, grad_forward: Tensor, grad_backward: Tensor) -> Tensor:
        """Gradient of the scores from those of both forms; all are overwritten."""
        shift = (grad_forward * self.forward).sum(-1, keepdim=True)
        grad = grad_forward.sub_(shift).div_(self.forward_sum)
        if self.seen is not None:
            grad *= self.seen
        weighted = grad_backward * self.backward
        parts = zip(self._split(grad_backward), self._split(weighted), self.group_sums, strict=True)
        for part, product, total in parts:
            part.sub_(product.sum(1, keepdim=True).mul_(len(self.groups))).div_(total)
        return grad.add_(grad_backward).mul_(self.backward.sign_())  # none where the other path has the score


class _Static(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        query: Tensor,
        bias: Tensor,
        keys: Tensor,
        values_a: Tensor,
        values_b: Tensor,
        seen: Tensor | None,
        constants: _Constants,
    ) -> tuple[Tensor, Tensor]:
        (batch, tokens, dim), size = keys.shape, len(query)
        drop_scores, drop_a, drop_b = constants.drops
        scores, scaled = keys.new_empty(batch, size, tokens), query / math.sqrt(dim)
        for part in chunks(batch, size * dim, keys.device):
            scores[part] = batched(scaled.expand(len(keys[part]), -1, -1), keys[part])
        dropped = drop_scores.keep(scores.shape, keys.device)
        dropped.times_(scores)
        outputs, kept = [], []
        for sign, values, drop in ((1, values_a, drop_a), (-1, values_b, drop_b)):
            keep, output = drop.keep((batch, size, dim), keys.device), torch.empty_like(keys)
            for part in chunks(batch, size * dim, keys.device):
                weights = _Weights(scores[part], sign, None if seen is None else seen[part], constants)
                vectors = _vectors(weights, values[part], bias, keep, part)
                output[part] = batched(weights.backward.transpose(1, 2), vectors.transpose(1, 2))
            outputs.append(output.mul_(keep.scale))
            kept.append(keep)
        # What was dropped of the scores is 0, and a score of 0 has no gradient: their mask is not needed.
        ctx.constants, ctx.scales = constants, (dropped.scale, kept[0].scale, kept[1].scale)
        saved = query, bias, keys, values_a, values_b, seen, scores
        ctx.save_for_backward(*saved, kept[0].mask, kept[1].mask)
        return outputs[0], outputs[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, bias, keys, values_a, values_b, seen, scores, *masks = ctx.saved_tensors
        scale, *scales = ctx.scales
        kept = [Kept(mask=mask) for mask in masks]
        grads = tuple(grad * of for grad, of in zip(grads, scales, strict=True))
        paths = tuple(zip((1, -1), (values_a, values_b), kept, grads, strict=True))
        (batch, _, dim), size = keys.shape, len(query)
        grad_query, grad_bias = torch.zeros_like(query), torch.zeros_like(bias)
        grad_keys, *grad_values = (torch.empty_like(keys) for _ in range(3))
        turned = query.t().contiguous()
        for part in chunks(batch, size * dim, keys.device):
            grad_scores = torch.zeros_like(scores[part])
            for (sign, values, keep, grad_out), grad_value in zip(paths, grad_values, strict=True):
                weights = _Weights(scores[part], sign, None if seen is None else seen[part], ctx.constants)
                vectors = _vectors(weights, values[part], bias, keep, part)
                grad = grad_out[part]
                grad_backward = batched(vectors, grad)  # (b, P, S)
                grad_vectors = keep.times_(batched(weights.backward, grad.transpose(1, 2)), part)  # (b, P, D)
                grad_bias += grad_vectors.sum(0)
                grad_value[part] = batched(weights.forward.transpose(1, 2), grad_vectors.transpose(1, 2))
                grad_forward = batched(grad_vectors, values[part])  # (b, P, S)
                grad_scores += weights.gradient(grad_forward, grad_backward)
            grad_scores *= scale / math.sqrt(dim)
            grad_keys[part] = batched(grad_scores.transpose(1, 2), turned.expand(len(grad_scores), -1, -1))
            grad_query += batched(grad_scores, keys[part].transpose(1, 2)).sum(0)
        return grad_query, grad_bias, grad_keys, *grad_values, None, None


def _vectors(weights: _Weights, values: Tensor, bias: Tensor, keep: Kept, part: slice) -> Tensor:
    """Mixtures of tokens (b, P, D); what is dropped of them is 0, and the rest is not scaled yet."""
    vectors = batched(weights.forward, values.transpose(1, 2)).add_(bias)
    return vectors if keep.mask is None else vectors.mul_(keep.mask[part])


def static_expansion(
    query: Tensor,
    bias: Tensor,
    keys: Tensor,
    values: tuple[Tensor, Tensor],
    seen: Tensor | None,
    *,
    groups: tuple[int, ...],
    eps: float,
    drops: tuple[Dropout, Dropout, Dropout],
) -> tuple[Tensor, Tensor]:
    """Mix tokens into vectors and back on both paths.

    Args:
        query: of the vectors (P, D).
        bias: of the vectors (P, D).
        keys: of the tokens (B, S, D).
        values: of the tokens, of paths a and b (B, S, D).
        seen: boolean (B, S), True at the tokens that are mixed into vectors; None: all.
        groups: sizes of the groups of vectors; their sum is P.
        eps: added to the sums.
        drops: dropouts of the scores, and of the vectors of paths a and b.

    Returns:
        What paths a and b mixed back, before their dropouts, each (B, S, D).
    """
    constants = _Constants(groups=groups, eps=eps, drops=drops)
    return _Static.apply(query, bias, keys, *values, None if seen is None else seen[:, None], constants)
