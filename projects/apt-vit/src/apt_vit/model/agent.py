"""The agent behind a block: two numbers a token, which say keep or prune.

# B batch, N tokens, D width
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Agent(nn.Module):
    """Judges each token by itself and by its product with the classification token.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.fc = nn.Linear(2 * width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D), the classification token first, to logits (B, N, 2): keep, prune."""
        product = self.query(x[:, :1]) * self.key(x)  # (B, N, D): no sum, no scale
        return self.fc(torch.cat((self.value(x), product), dim=-1))

    @staticmethod
    def prune_probability(logits: Tensor) -> Tensor:
        """Logits (..., 2) to the probability of pruning (...), float32; every decision is taken on it."""
        return logits.float().softmax(-1)[..., 1]
