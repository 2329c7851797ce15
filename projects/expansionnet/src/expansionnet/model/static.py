"""Static expansion: visual tokens are mixed into P learned vectors and back.

The scores Z of the vectors split by sign into two paths, a and b; what a ReLU hides from one path the other
has. Each path mixes the tokens into P vectors (forward, normalised over the tokens), and those back into
tokens (backward, normalised over the vectors of each group); a gate joins the paths.

# B batch, S tokens, D width, P expansion vectors
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class StaticExpansion(nn.Module):
    """The block between norm and residual of an encoder layer."""

    def __init__(self, dim: int, groups: tuple[int, ...], drop: float, eps: float) -> None:
        super().__init__()
        self.groups = groups
        self.eps = eps
        size = sum(groups)
        self.query_exp_vectors = nn.Embedding(size, dim)
        self.bias_exp_vectors = nn.Embedding(size, dim)
        self.key_embed = nn.Linear(dim, dim)
        self.class_a_embed = nn.Linear(dim, dim)
        self.class_b_embed = nn.Linear(dim, dim)
        self.selector_embed = nn.Linear(dim, dim)
        self.drop_scores = nn.Dropout(drop)
        self.drop_a = nn.Dropout(drop)
        self.drop_b = nn.Dropout(drop)
        self.drop_mixed_a = nn.Dropout(drop)
        self.drop_mixed_b = nn.Dropout(drop)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Expand and contract.

        Args:
            x: normed tokens (B, S, D).
            seen: boolean (B, S), True at the tokens that are mixed into the vectors; None: all. Rows of the
                others get values all the same, as in the original.

        Returns:
            (B, S, D).
        """
        keys = self.key_embed(x)
        scores = self.query_exp_vectors.weight @ keys.transpose(1, 2) / math.sqrt(x.shape[-1])  # (B, P, S)
        scores = self.drop_scores(scores)
        positive = torch.relu(scores)
        # Not relu(z) - z: where a row's sum is 0, its gradient is lost beside terms of the size of 1 / eps.
        negative = torch.relu(-scores)
        bias = self.bias_exp_vectors.weight
        a = self.drop_a(self._forward_mix(positive, seen) @ self.class_a_embed(x) + bias)  # (B, P, D)
        b = self.drop_b(self._forward_mix(negative, seen) @ self.class_b_embed(x) + bias)
        mixed_a = self.drop_mixed_a(self._backward_mix(positive).transpose(1, 2) @ a)  # (B, S, D)
        mixed_b = self.drop_mixed_b(self._backward_mix(negative).transpose(1, 2) @ b)
        return torch.lerp(mixed_b, mixed_a, torch.sigmoid(self.selector_embed(x)))

    def _forward_mix(self, scores: Tensor, seen: Tensor | None) -> Tensor:
        """Weights (B, P, S) of the tokens in each vector."""
        if seen is not None:
            scores = scores * seen[:, None]
        return scores / (scores.sum(-1, keepdim=True) + self.eps)

    def _backward_mix(self, scores: Tensor) -> Tensor:
        """Weights (B, P, S) of the vectors in each token, over the number of groups."""
        parts = scores.split(self.groups, dim=1)
        return torch.cat([part / (part.sum(1, keepdim=True) + self.eps) for part in parts], 1) / len(parts)
