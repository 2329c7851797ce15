"""Dynamic expansion between its linear maps and its gate.

Queries and biases of the vectors are sums of a learned part and one of their word, and enter products alone;
so each product is taken of both parts apart, and vectors of width D are made of the mixtures alone.

# B batch, b part of it, L words, D width, E vectors of a word, N = L*E vectors, word by word
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
    eps: float
    drops: tuple[Dropout, Dropout, Dropout]


class _Weights:
    """Both normalised forms (b, N, L) of one path's scores (b, N, L), and their way back."""

    def __init__(self, scores: Tensor, sign: int, mask: Tensor, eps: float) -> None:
        self.sign = sign
        words = mask.shape[-1]
        self.own = torch.relu(scores if sign > 0 else -scores)
        # Word u's vectors are made of the words that u sees, and are seen by the words that see u.
        self.sees = mask.repeat_interleave(scores.shape[1] // words, 1)  # (b or 1, N, L)
        self.seen = mask.transpose(1, 2).repeat_interleave(scores.shape[1] // words, 1)  # (b or 1, N, L)
        self.forward = self.own * self.sees
        self.forward_sum = self.forward.sum(-1, keepdim=True).add_(eps)  # (b, N, 1)
        self.forward /= self.forward_sum
        self.backward = self.own * self.seen
        self.backward_sum = self.backward.sum(1, keepdim=True).add_(eps)  # (b, 1, L)
        self.backward /= self.backward_sum

    def gradient(self, grad_forward: Tensor, grad_backward: Tensor) -> Tensor:
        """Gradient of the scores from those of both forms, which it overwrites."""
        shift = (grad_forward * self.forward).sum(-1, keepdim=True)
        grad = grad_forward.sub_(shift).div_(self.forward_sum).mul_(self.sees)
        shift = (grad_backward * self.backward).sum(1, keepdim=True)
        grad += grad_backward.sub_(shift).div_(self.backward_sum).mul_(self.seen)
        return grad.mul_(self.own.sign()).mul_(self.sign)


class _Dynamic(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        query: Tensor,
        bias: Tensor,
        condition: Tensor,
        keys: Tensor,
        values_a: Tensor,
        values_b: Tensor,
        mask: Tensor,
        constants: _Constants,
    ) -> tuple[Tensor, Tensor]:
        (batch, words, dim), count = keys.shape, len(query)
        drop_scores, drop_a, drop_b = constants.drops
        scaled = keys.transpose(1, 2) / math.sqrt(dim)  # (B, D, L)
        scores = (condition @ scaled)[:, :, None] + (query @ scaled)[:, None]  # (B, L, E, L)
        scores = scores.flatten(1, 2)  # (B, N, L)
        dropped = drop_scores.keep(scores.shape, keys.device)
        dropped.times_(scores)
        outputs, kept = [], []
        for sign, values, drop in ((1, values_a, drop_a), (-1, values_b, drop_b)):
            kept.append(drop.keep((batch, words * count, dim), keys.device))
            output = torch.empty_like(keys)
            for part in chunks(batch, words * count * dim, keys.device):
                weights = _Weights(scores[part], sign, _part(mask, part), constants.eps)
                vectors = kept[-1].times_(torch.bmm(weights.forward, values[part]), part)  # (b, N, D)
                torch.bmm(weights.backward.transpose(1, 2), vectors, out=output[part])
                of_word, of_vector = _sums(weights.backward, count)
                output[part].baddbmm_(of_word.transpose(1, 2), condition[part])
                output[part].add_(of_vector.transpose(1, 2) @ bias)
            outputs.append(output)
        # What was dropped of the scores is 0, and a score of 0 has no gradient: their mask is not needed.
        ctx.constants, ctx.scales = constants, (dropped.scale, kept[0].scale, kept[1].scale)
        saved = query, bias, condition, keys, values_a, values_b, mask, scores
        ctx.save_for_backward(*saved, kept[0].mask, kept[1].mask)
        return outputs[0], outputs[1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, bias, condition, keys, values_a, values_b, mask, scores, *masks = ctx.saved_tensors
        scale, *scales = ctx.scales
        kept = [Kept(mask=mask, scale=scale) for mask, scale in zip(masks, scales, strict=True)]
        paths = tuple(zip((1, -1), (values_a, values_b), kept, grads, strict=True))
        (batch, words, dim), count = keys.shape, len(query)
        grad_query, grad_bias, grad_condition = (torch.zeros_like(x) for x in (query, bias, condition))
        grad_keys, *grad_values = (torch.empty_like(keys) for _ in range(3))
        for part in chunks(batch, words * count * dim, keys.device):
            grad_scores = torch.zeros_like(scores[part])
            for (sign, values, drop, grad_out), grad_value in zip(paths, grad_values, strict=True):
                weights = _Weights(scores[part], sign, _part(mask, part), ctx.constants.eps)
                vectors = drop.times_(torch.bmm(weights.forward, values[part]), part)  # (b, N, D)
                grad = grad_out[part]
                turned = grad.transpose(1, 2)  # (b, D, L)
                grad_backward = torch.bmm(vectors, turned).unflatten(1, (words, count))  # (b, L, E, L)
                grad_backward += (condition[part] @ turned)[:, :, None] + (bias @ turned)[:, None]
                of_word, of_vector = _sums(weights.backward, count)
                grad_condition[part].baddbmm_(of_word, grad)
                grad_bias += (of_vector @ grad).sum(0)
                grad_vectors = drop.times_(torch.bmm(weights.backward, grad, out=vectors), part)
                torch.bmm(weights.forward.transpose(1, 2), grad_vectors, out=grad_value[part])
                grad_forward = torch.bmm(grad_vectors, values[part].transpose(1, 2))  # (b, N, L)
                grad_scores += weights.gradient(grad_forward, grad_backward.flatten(1, 2))
            of_word, of_vector = _sums(grad_scores.mul_(scale / math.sqrt(dim)), count)
            grad_condition[part].baddbmm_(of_word, keys[part])
            grad_query += (of_vector @ keys[part]).sum(0)
            torch.bmm(of_word.transpose(1, 2), condition[part], out=grad_keys[part])
            grad_keys[part].add_(of_vector.transpose(1, 2) @ query)
        return grad_query, grad_bias, grad_condition, grad_keys, *grad_values, None, None


def _part(mask: Tensor, part: slice) -> Tensor:
    return mask[part] if len(mask) > 1 else mask


def _sums(weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of weights (b, N, L) the sums over each word's vectors (b, L, L), and over words (b, E, L)."""
    split = weights.unflatten(1, (-1, count))  # (b, L, E, L)
    return split.sum(2), split.sum(1)


def dynamic_expansion(
    query: Tensor,
    bias: Tensor,
    condition: Tensor,
    keys: Tensor,
    values: tuple[Tensor, Tensor],
    mask: Tensor,
    *,
    eps: float,
    drops: tuple[Dropout, Dropout, Dropout],
) -> tuple[Tensor, Tensor]:
    """Mix words into vectors and back on both paths.

    Args:
        query: learned part of the vectors' queries (E, D).
        bias: learned part of the vectors' biases (E, D).
        condition: the words' part of both (B, L, D).
        keys: of the words (B, L, D).
        values: of the words, of paths a and b (B, L, D).
        mask: boolean (B, L, L) or (1, L, L), True where a word sees another.
        eps: added to the sums.
        drops: dropouts of the scores, and of the vectors of paths a and b.

    Returns:
        What paths a and b mixed back, before their dropouts, each (B, L, D).
    """
    constants = _Constants(eps=eps, drops=drops)
    return _Dynamic.apply(query, bias, condition, keys, *values, mask, constants)
