"""Attention over the tokens of a picture.

# B batch, N tokens, D width, H heads
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention.

    Args:
        width: D.
        heads: H, which divides D.
        dropout: share that is dropped of the probabilities, and again of what comes out.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens (B, N, D) to (B, N, D).

        Args:
            x: tokens, normalised.
            mask: what broadcasts to (B, H, N, N), keys last: (B, 1, 1, N) for one mask of keys. Numbers are
                added to the scores; of booleans, True is seen. None: all see all.
        """
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        return self.finish(self.attend(query, key, value, mask))

    def split(self, x: Tensor) -> Tensor:
        """(B, N, D) to heads (B, H, N, D/H)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Values of heads (B, H, M, D/H) as M queries see them; the arguments are those of `forward`."""
        if self.training and self.dropout > 0:
            # In steps, since the fused form draws its own mask; the original's draws are of (B, H, N, N).
            seen = _probabilities(query, key, mask)
            return F.dropout(seen, self.dropout) @ value
        if mask is not None and mask.dtype is not torch.bool:
            mask = mask.to(query.dtype)  # the fused form takes no other
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)

    def finish(self, context: Tensor) -> Tensor:
        """Heads (B, H, N, D/H) to tokens (B, N, D)."""
        merged = context.transpose(1, 2).flatten(2)  # (B, N, D)
        return F.dropout(self.out(merged), self.dropout, self.training)

    def probabilities(self, x: Tensor, mask: Tensor | None = None, queries: int | None = None) -> Tensor:
        """What each query sees of each key, (B, H, N, N), before dropout.

        Args:
            x: tokens (B, N, D), normalised.
            mask: as in `forward`.
            queries: only the first so many queries; 1 is the classification token's row alone.
        """
        query = self.split(self.query(x[:, :queries]))
        return _probabilities(query, self.split(self.key(x)), mask)


def _probabilities(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over keys, (B, H, N, N)."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None and mask.dtype is torch.bool:
        scores = scores.masked_fill(~mask, -torch.inf)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(-1)
