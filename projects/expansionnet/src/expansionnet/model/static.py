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

from expansionnet.model import fused
from expansionnet.model.dropout import Dropout
from expansionnet.model.linear import Linear


class StaticExpansion(nn.Module):
    """The block between norm and residual of an encoder layer."""

    def __init__(self, dim: int, groups: tuple[int, ...], drop: float, eps: float) -> None:
        super().__init__()
        self.groups = groups
        self.eps = eps
        size = sum(groups)
        self.query_exp_vectors = nn.Embedding(size, dim)
        self.bias_exp_vectors = nn.Embedding(size, dim)
        self.key_embed = Linear(dim, dim)
        self.class_a_embed = Linear(dim, dim)
        self.class_b_embed = Linear(dim, dim)
        self.selector_embed = Linear(dim, dim)
        self.drop_scores = Dropout(drop)
        self.drop_a = Dropout(drop)
        self.drop_b = Dropout(drop)
        self.drop_mixed_a = Dropout(drop)
        self.drop_mixed_b = Dropout(drop)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Expand and contract.

        Args:
            x: normed tokens (B, S, D).
            seen: boolean (B, S), True at the tokens that are mixed into the vectors; None: all. Rows of the
                others get values all the same, as in the original.

        Returns:
            (B, S, D).
        """
        if not fused.usable(x):
            return self.plain(x, seen)
        a, b = fused.static_expansion(
            self.query_exp_vectors.weight,
            self.bias_exp_vectors.weight,
            self.key_embed(x),
            (self.class_a_embed(x), self.class_b_embed(x)),
            seen,
            groups=self.groups,
            eps=self.eps,
            drops=(self.drop_scores, self.drop_a, self.drop_b),
        )
        return fused.gate(a, b, self.selector_embed(x), self.drop_mixed_a, self.drop_mixed_b)

    def plain(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """`forward` in operations that autograd, autocast and compilers know."""
        keys = self.key_embed(x)
        scores = self.query_exp_vectors.weight @ keys.transpose(1, 2) / math.sqrt(x.shape[-1])  # (B, P, S)
        scores = self.drop_scores(scores)
        a = self._mix(torch.relu(scores), self.class_a_embed(x), seen, self.drop_a)
        b = self._mix(torch.relu(-scores), self.class_b_embed(x), seen, self.drop_b)
        a, b = self.drop_mixed_a(a), self.drop_mixed_b(b)
        return torch.lerp(b, a, torch.sigmoid(self.selector_embed(x)))

    def _mix(self, scores: Tensor, values: Tensor, seen: Tensor | None, drop: Dropout) -> Tensor:
        """One path: values (B, S, D) by scores (B, P, S) into vectors and back."""
        forward = scores if seen is None else scores * seen[:, None]
        forward = forward / (forward.sum(-1, keepdim=True) + self.eps)
        parts = scores.split(self.groups, dim=1)
        backward = [part / (part.sum(1, keepdim=True) + self.eps) for part in parts]
        turned = torch.cat(backward, dim=1).transpose(1, 2) / len(parts)  # (B, S, P)
        bias = self.bias_exp_vectors.weight
        if drop.active:
            return turned @ drop(forward @ values + bias)  # (B, P, D) to (B, S, D)
        # No vectors of width D where nothing is dropped of them: the weights of both ways make (B, S, S).
        return (turned @ forward) @ values + turned @ bias
