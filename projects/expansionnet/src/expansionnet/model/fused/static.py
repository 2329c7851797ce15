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


@dataclass(frozen=True, kw_only=True)
class _Constants:
    groups: tuple[int, ...]
    eps: float
    drops: tuple[Dropout, Dropout, Dropout]


class _Weights:
    """Both normalised forms (b, P, S) of one path's scores, and their way back."""

    def __init__(self, scores: Tensor, sign: int, seen: Tensor | None, constants: _Constants) -> None:
        self.sign = sign
        self.groups = constants.groups
        self.own = torch.relu(scores if sign > 0 else -scores)
        self.seen = seen
        masked = self.own if seen is None else self.own * seen
        self.forward_sum = masked.sum(-1, keepdim=True).add_(constants.eps)  # (b, P, 1)
        self.forward = masked / self.forward_sum
        parts = self._split(self.own)
        # Over the number of groups, by which the original divides what is mixed.
        self.group_sums = [(p.sum(1, keepdim=True) + constants.eps) * len(parts) for p in parts]  # (b, 1, S)
        self.backward = torch.cat([p / total for p, total in zip(parts, self.group_sums, strict=True)], dim=1)

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(self.groups, dim=1)

    def gradient(self, grad_forward: Tensor, grad_backward: Tensor) -> Tensor:
        """Gradient of the scores from those of both forms, which it overwrites."""
        shift = (grad_forward * self.forward).sum(-1, keepdim=True)
        grad = grad_forward.sub_(shift).div_(self.forward_sum)
        if self.seen is not None:
            grad *= self.seen
        weighted = grad_backward * self.backward
        parts = zip(self._split(grad_backward), self._split(weighted), self.group_sums, strict=True)
        for part, product, total in parts:
            part.sub_(product.sum(1, keepdim=True).mul_(len(self.groups))).div_(total)
        return grad.add_(grad_backward).mul_(self.own.sign()).mul_(self.sign)


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
        (batch, _, dim), size = keys.shape, len(query)
        drop_scores, drop_a, drop_b = constants.drops
        scores = torch.matmul(query / math.sqrt(dim), keys.transpose(1, 2))  # (B, P, S)
        dropped = drop_scores.keep(scores.shape, keys.device)
        dropped.times_(scores)
        outputs, kept = [], []
        for sign, values, drop in ((1, values_a, drop_a), (-1, values_b, drop_b)):
            kept.append(drop.keep((batch, size, dim), keys.device))
            output = torch.empty_like(keys)
            for part in chunks(batch, size * dim, keys.device):
                weights = _Weights(scores[part], sign, None if seen is None else seen[part], constants)
                vectors = kept[-1].times_(
                    torch.baddbmm(bias, weights.forward, values[part]), part
                )  # (b, P, D)
                torch.bmm(weights.backward.transpose(1, 2), vectors, out=output[part])
            outputs.append(output)
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
        kept = [Kept(mask=mask, scale=scale) for mask, scale in zip(masks, scales, strict=True)]
        paths = tuple(zip((1, -1), (values_a, values_b), kept, grads, strict=True))
        (batch, _, dim), size = keys.shape, len(query)
        grad_query, grad_bias, grad_keys = (torch.zeros_like(x) for x in (query, bias, keys))
        grad_values = torch.empty_like(keys), torch.empty_like(keys)
        for part in chunks(batch, size * dim, keys.device):
            grad_scores = torch.zeros_like(scores[part])
            for (sign, values, drop, grad_out), grad_value in zip(paths, grad_values, strict=True):
                weights = _Weights(scores[part], sign, None if seen is None else seen[part], ctx.constants)
                vectors = drop.times_(torch.baddbmm(bias, weights.forward, values[part]), part)  # (b, P, D)
                grad = grad_out[part]
                grad_backward = torch.bmm(vectors, grad.transpose(1, 2))  # (b, P, S)
                grad_vectors = drop.times_(torch.bmm(weights.backward, grad, out=vectors), part)  # (b, P, D)
                grad_bias += grad_vectors.sum(0)
                torch.bmm(weights.forward.transpose(1, 2), grad_vectors, out=grad_value[part])
                grad_forward = torch.bmm(grad_vectors, values[part].transpose(1, 2))  # (b, P, S)
                grad_scores += weights.gradient(grad_forward, grad_backward)
            grad_scores *= scale / math.sqrt(dim)
            torch.matmul(grad_scores.transpose(1, 2), query, out=grad_keys[part])
            by_vector = grad_scores.transpose(0, 1).flatten(1)  # (P, b*S)
            grad_query.addmm_(by_vector, keys[part].flatten(0, 1))
        return grad_query, grad_bias, grad_keys, *grad_values, None, None


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
