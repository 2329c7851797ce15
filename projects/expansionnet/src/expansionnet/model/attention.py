"""Attention of the words to the visual tokens.

# B batch, K sentences of a picture, L words, S visual tokens, D width, H heads
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from expansionnet.model.linear import Linear

HIDDEN = -1e4
"""Score of what is not visible, as in the original: a row that sees nothing is an even average."""


class CrossAttention(nn.Module):
    """Multi-head attention with four projections and without dropout on its weights."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.Wq = Linear(dim, dim)
        self.Wk = Linear(dim, dim)
        self.Wv = Linear(dim, dim)
        self.out_linear = Linear(dim, dim)

    def split(self, x: Tensor) -> Tensor:
        """(B, L, D) to heads (B, H, L, D/H), which are consecutive slices of the width."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, query: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mix visual tokens for each word.

        Args:
            query: words (B, L, D); or K sentences of each picture, (B * K, L, D) with a picture's together,
                which share its keys and values.
            tokens: visual tokens (B, S, D), both keys and values.
            mask: boolean, broadcastable to (B, K * L, S), True where visible; None: all.

        Returns:
            Of the words' shape.
        """
        words = self.Wq(query).view(len(tokens), -1, query.shape[-1])  # (B * K, L, D) to (B, K * L, D)
        q, k, v = self.split(words), self.split(self.Wk(tokens)), self.split(self.Wv(tokens))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, L, S)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], HIDDEN)
        mixed = torch.softmax(scores, dim=-1) @ v  # (B, H, L, D/H)
        return self.out_linear(mixed.transpose(1, 2).reshape(query.shape))  # heads next to each other
