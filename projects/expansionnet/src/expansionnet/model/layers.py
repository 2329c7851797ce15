"""Layers of the encoder and of the decoder: norm, block, dropout, residual.

# B batch, S visual tokens, L words, D width
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from expansionnet.config import ModelConfig
from expansionnet.model import fused
from expansionnet.model.attention import CrossAttention
from expansionnet.model.dropout import Dropout
from expansionnet.model.dynamic import DynamicExpansion
from expansionnet.model.static import StaticExpansion


class FeedForward(nn.Module):
    """Two linear maps with ReLU and dropout between them."""

    def __init__(self, dim: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, hidden)
        self.linear_2 = nn.Linear(hidden, dim)
        self.drop = Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        if fused.usable(x):
            return fused.feed_forward(x, self.linear_1, self.linear_2, self.drop)
        return self.linear_2(self.drop(torch.relu(self.linear_1(x))))


class EncoderLayer(nn.Module):
    """Static expansion and feed-forward."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        dim, drop = cfg.model_dim, cfg.enc_drop
        self.norm_1 = nn.LayerNorm(dim, eps=cfg.layer_norm_eps)
        self.norm_2 = nn.LayerNorm(dim, eps=cfg.layer_norm_eps)
        self.stc_exp = StaticExpansion(dim, cfg.num_exp_enc_list, drop, cfg.expansion_eps)
        self.ff = FeedForward(dim, cfg.ff, drop)
        self.drop_1 = Dropout(drop)
        self.drop_2 = Dropout(drop)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """Refine visual tokens.

        Args:
            x: (B, S, D).
            seen: boolean (B, S), True at tokens that are not padded; None: all.

        Returns:
            (B, S, D).
        """
        x = add_dropped(x, self.stc_exp(self.norm_1(x), seen), self.drop_1)
        return add_dropped(x, self.ff(self.norm_2(x)), self.drop_2)


class DecoderLayer(nn.Module):
    """Dynamic expansion, attention to the visual tokens and feed-forward."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        dim, drop = cfg.model_dim, cfg.dec_drop
        self.norm_1 = nn.LayerNorm(dim, eps=cfg.layer_norm_eps)
        self.norm_2 = nn.LayerNorm(dim, eps=cfg.layer_norm_eps)
        self.norm_3 = nn.LayerNorm(dim, eps=cfg.layer_norm_eps)
        self.mha = CrossAttention(dim, cfg.num_heads)
        self.dyn_exp = DynamicExpansion(dim, cfg.num_exp_dec, drop, cfg.expansion_eps)
        self.ff = FeedForward(dim, cfg.ff, drop)
        self.drop_1 = Dropout(drop)
        self.drop_2 = Dropout(drop)
        self.drop_3 = Dropout(drop)

    def forward(self, x: Tensor, encoded: Tensor, causal: Tensor, cross: Tensor | None = None) -> Tensor:
        """Refine words.

        Args:
            x: words (B, L, D).
            encoded: visual tokens (B, S, D), which are not normed again.
            causal: boolean (B, L, L) or (1, L, L), True where a word sees another.
            cross: boolean, broadcastable to (B, L, S), True where a word sees a token; None: all.

        Returns:
            (B, L, D).
        """
        x = add_dropped(x, self.dyn_exp(self.norm_1(x), causal), self.drop_1)
        x = add_dropped(x, self.mha(self.norm_2(x), encoded, cross), self.drop_2)
        return add_dropped(x, self.ff(self.norm_3(x)), self.drop_3)


def add_dropped(x: Tensor, update: Tensor, drop: Dropout) -> Tensor:
    """``x + drop(update)``."""
    return fused.add_dropped(x, update, drop) if fused.usable(x) else x + drop(update)
