"""Multi-head attention of the transformer captioners, with shared projections and with box relations.

Follows Vaswani et al. 2017, sections 3.2.1 and 3.2.2; Herdade et al. 2019, equation 6, for boxes. Biases of
attention logits are additive: 0 where a key may be seen, `FORBIDDEN` where not, so that a query that may see
nothing looks at all keys alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunelab.mask import MaskSpec
from smp_caption.config import ModelConfig
from smp_caption.model.layers import FORBIDDEN, effective, make_linear

# B images or captions, Q queries, S keys, H heads, W width of a head, D = H * W model width

Map: TypeAlias = Callable[[Tensor], Tensor]
"""A linear map."""

BOX_DIM = 64
"""Numbers of the embedding of a pair of boxes."""
RAW_DIM = 4
"""The same where relations are taken as they are."""
LEAST_WEIGHT = 1e-6
"""Least geometric weight, before its logarithm."""


def bias_of(allowed: Tensor, like: Tensor) -> Tensor:
    """The bias of attention logits: 0 where ``allowed`` is not 0, else `FORBIDDEN`; any shape."""
    return like.new_zeros(()).masked_fill(allowed == 0, FORBIDDEN)


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, dropout: nn.Dropout | None = None
) -> Tensor:
    """What queries (..., H, Q, W) find among keys and values (..., H, S, W): (..., H, Q, W).

    Args:
        query: the queries.
        key: the keys.
        value: the values.
        bias: added to the logits, broadcastable to (..., H, Q, S).
        dropout: of the attention weights.
    """
    rate = dropout.p if dropout is not None and dropout.training else 0.0
    if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=rate)
    logits = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if bias is not None:
        logits = logits + bias
    weights = logits.softmax(dim=-1)
    return F.dropout(weights, rate) @ value


class Attention(nn.Module):
    """Multi-head attention; two of its projections may be one.

    Args:
        cfg: sizes.
        share: ``kv``: the projected key is the value too; ``qk``: queries and keys have one projection.
        dropout: of the attention weights.
        mask: how masks behave; None: no masks.
    """

    def __init__(self, cfg: ModelConfig, share: str | None, dropout: float, mask: MaskSpec | None) -> None:
        super().__init__()
        count = 4 if share is None else 3
        self.linears = nn.ModuleList(make_linear(cfg.d_model, cfg.d_model, mask) for _ in range(count))
        self.dropout = nn.Dropout(dropout)
        self.heads = cfg.num_heads
        self.share = share

    def keys_values(self, memory: Tensor, maps: Sequence[Map] | None = None) -> tuple[Tensor, Tensor]:
        """Projected keys and values (..., D) of what is attended to (..., D).

        Args:
            memory: what is attended to.
            maps: the linear maps in another form; None: as they are.
        """
        maps = list(self.linears) if maps is None else maps
        key = maps[0 if self.share == "qk" else 1](memory)
        return key, key if self.share == "kv" else maps[-2](memory)

    def roles(self, projected: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values among what all linear maps but the last made of the same input."""
        first, last = projected[0], projected[-1]
        return first, first if self.share == "qk" else projected[1], last

    def split(self, *projected: Tensor) -> Iterator[Tensor]:
        """Each (B, T, D) as (B, H, T, W)."""
        return (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in projected)

    def mixed(self, found: Tensor) -> Tensor:
        """The output (B, Q, D) of what the heads found (B, H, Q, W)."""
        return self.linears[-1](found.transpose(1, 2).flatten(2))

    def to_self(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Let x (B, T, D) attend to itself; bias broadcastable to (B, H, T, T)."""
        query, key, value = self.split(*self.roles([linear(x) for linear in self.linears[:-1]]))
        return self.mixed(attend(query, key, value, bias, self.dropout))

    def to_memory(self, x: Tensor, memory: Tensor, bias: Tensor | None) -> Tensor:
        """Let x (B, Q, D) attend to memory (B, S, D); bias broadcastable to (B, H, Q, S)."""
        query, key, value = self.split(self.linears[0](x), *self.keys_values(memory))
        return self.mixed(attend(query, key, value, bias, self.dropout))


class BoxAttention(Attention):
    """Attention among regions that also has a weight for the relation of each pair of boxes, for every head.

    The weights themselves come from `geometric_biases`, for all layers at once.
    """

    def __init__(self, cfg: ModelConfig, share: str | None, dropout: float, mask: MaskSpec | None) -> None:
        super().__init__(cfg, share, dropout, mask)
        size = RAW_DIM if cfg.no_box_trigonometric_embedding else BOX_DIM
        self.WGs = nn.ModuleList(make_linear(size, 1, mask) for _ in range(cfg.num_heads))


def geometric_biases(relations: Tensor, attentions: list[BoxAttention]) -> list[Tensor]:
    """What relations of boxes add to the attention logits of each layer: log(max(ReLU(WG emb + b), 1e-6)).

    The logarithm magnifies the rounding of weights near 0, and the optimiser of masks that of gradients. On a
    processor every head's product therefore keeps the order of sums that it has alone, for a few
    milliseconds; elsewhere, and in compiled or exported graphs, all heads of all layers are one product.

    Args:
        relations: (B, S, S, E) embedded relations of all pairs of boxes.
        attentions: those of each layer; one may come several times.

    Returns:
        (B, H, S, S) for each of them.
    """
    linears = [linear for attention in attentions for linear in attention.WGs]
    weight = torch.cat([effective(linear) for linear in linears])  # (layers * H, E)
    bias = torch.cat([linear.get_parameter("bias") for linear in linears])
    pairs = relations.flatten(0, 2)  # (B * S * S, E)
    if pairs.device.type == "cpu" and not torch.compiler.is_compiling():
        products = torch.stack([pairs.mv(row) for row in weight.unbind()])
    else:
        products = weight @ pairs.t()
    weights = (products + bias.unsqueeze(1)).relu().view(-1, *relations.shape[:3])  # (layers * H, B, S, S)
    biases = weights.clamp(min=LEAST_WEIGHT).log()
    return [part.transpose(0, 1) for part in biases.split(attentions[0].heads)]
