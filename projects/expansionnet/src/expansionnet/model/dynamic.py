"""Dynamic expansion: words are mixed into E vectors of each word, and back.

Every vector's query and bias are a learned one plus what its word says of itself.

# B batch, L words, D width, E expansion vectors of a word
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from expansionnet.model import fused
from expansionnet.model.dropout import Dropout
from expansionnet.model.linear import Linear


class DynamicExpansion(nn.Module):
    """The first block of a decoder layer, between norm and residual."""

    def __init__(self, dim: int, vectors: int, drop: float, eps: float) -> None:
        super().__init__()
        self.vectors = vectors
        self.eps = eps
        self.cond_embed = Linear(dim, dim)
        self.query_exp_vectors = nn.Embedding(vectors, dim)
        self.bias_exp_vectors = nn.Embedding(vectors, dim)
        self.key_linear = Linear(dim, dim)
        self.class_a_embed = Linear(dim, dim)
        self.class_b_embed = Linear(dim, dim)
        self.selector_embed = Linear(dim, dim)
        self.drop_scores = Dropout(drop)
        self.drop_a = Dropout(drop)
        self.drop_b = Dropout(drop)
        self.drop_mixed_a = Dropout(drop)
        self.drop_mixed_b = Dropout(drop)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Expand and contract.

        Args:
            x: normed words (B, L, D).
            mask: boolean (B, L, L) or (1, L, L), True where a word sees another.

        Returns:
            (B, L, D).
        """
        if not fused.usable(x):
            return self.plain(x, mask)
        a, b = fused.dynamic_expansion(
            self.query_exp_vectors.weight,
            self.bias_exp_vectors.weight,
            self.cond_embed(x),
            self.key_linear(x),
            (self.class_a_embed(x), self.class_b_embed(x)),
            mask,
            eps=self.eps,
            drops=(self.drop_scores, self.drop_a, self.drop_b),
        )
        return fused.gate(a, b, self.selector_embed(x), self.drop_mixed_a, self.drop_mixed_b)

    def plain(self, x: Tensor, mask: Tensor) -> Tensor:
        """`forward` in operations that autograd, autocast and compilers know."""
        condition = self.cond_embed(x)
        query = (self.query_exp_vectors.weight + condition[:, :, None]).flatten(1, 2)  # (B, L*E, D)
        bias = (self.bias_exp_vectors.weight + condition[:, :, None]).flatten(1, 2)  # (B, L*E, D)
        scores = query @ self.key_linear(x).transpose(1, 2) / math.sqrt(x.shape[-1])  # (B, L*E, L)
        scores = self.drop_scores(scores)
        positive, negative = torch.relu(scores), torch.relu(-scores)
        a = self.drop_a(self._forward_mix(positive, mask) @ self.class_a_embed(x)) + bias  # (B, L*E, D)
        b = self.drop_b(self._forward_mix(negative, mask) @ self.class_b_embed(x)) + bias
        mixed_a = self.drop_mixed_a(self._backward_mix(positive, mask) @ a)  # (B, L, D)
        mixed_b = self.drop_mixed_b(self._backward_mix(negative, mask) @ b)
        return torch.lerp(mixed_b, mixed_a, torch.sigmoid(self.selector_embed(x)))

    def _forward_mix(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Weights (B, L*E, L) of the words in each vector."""
        words = scores.unflatten(1, (-1, self.vectors)) * mask[:, :, None]  # (B, L, E, L)
        return (words / (words.sum(-1, keepdim=True) + self.eps)).flatten(1, 2)

    def _backward_mix(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Weights (B, L, L*E) of the vectors in each word."""
        words = scores.transpose(1, 2).unflatten(-1, (-1, self.vectors)) * mask[..., None]  # (B, L, L, E)
        flat = words.flatten(2)
        return flat / (flat.sum(-1, keepdim=True) + self.eps)
