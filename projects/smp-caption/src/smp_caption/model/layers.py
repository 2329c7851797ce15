"""Parts of the captioners: layers with or without masks, box relations, norm, positions.

Follows Herdade et al. 2019 (Object Relation Transformer) as the original system computes it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from prunelab.mask import Masked, MaskedEmbedding, MaskedLinear, MaskSpec

# B images, S regions, H heads, W width of a head, D model width

FORBIDDEN = -1e9
"""Attention logit of a padded region, before softmax."""

TINY = 1e-20
"""Keeps a variance of 0 from being divided by, and is lost in any other."""


def make_linear(inputs: int, outputs: int, mask: MaskSpec | None) -> nn.Linear:
    """A linear map, masked unless ``mask`` is None."""
    return nn.Linear(inputs, outputs) if mask is None else MaskedLinear(inputs, outputs, mask=mask)


def make_embedding(rows: int, width: int, mask: MaskSpec | None) -> nn.Embedding:
    """A table of embeddings, masked unless ``mask`` is None."""
    return nn.Embedding(rows, width) if mask is None else MaskedEmbedding(rows, width, mask=mask)


def effective(layer: nn.Module, name: str = "weight") -> Tensor:
    """The weight that a call of the layer made now would multiply by."""
    return layer.effective(name) if isinstance(layer, Masked) else layer.get_parameter(name)


def box_relations(boxes: Tensor, *, min_distance: float = 1e-3) -> Tensor:
    """Relations of each pair of boxes: log distances in units of the first box, log ratios of the sizes.

    Width and height have 1 added, as for boxes in whole pixels, although coordinates are relative; trained
    models rely on it. A padding box of zeros thus has size 1.

    Args:
        boxes: (B, S, 4) x1, y1, x2, y2.
        min_distance: smallest distance before the logarithm.

    Returns:
        (B, S, S, 4): dx, dy, dw, dh; entry [m, n] relates box n to box m.
    """
    x1, y1, x2, y2 = boxes.unbind(dim=-1)  # (B, S) each
    centre = torch.stack([x1 + x2, y1 + y2], dim=-1) / 2
    size = torch.stack([x2 - x1 + 1, y2 - y1 + 1], dim=-1)  # (B, S, 2)
    distance = (centre.unsqueeze(2) - centre.unsqueeze(1)).abs() / size.unsqueeze(2)
    ratio = size.unsqueeze(2) / size.unsqueeze(1)
    return torch.cat([distance.clamp(min=min_distance), ratio], dim=-1).log()


def box_embedding(
    boxes: Tensor,
    *,
    dim: int = 64,
    wave_length: float = 1000.0,
    scale: float = 100.0,
    min_distance: float = 1e-3,
) -> Tensor:
    """Sines, then cosines of the box relations at ``dim / 8`` wave lengths.

    Args:
        boxes: (B, S, 4).
        dim: size of the embedding, a multiple of 8.
        wave_length: ratio of the longest wave to the shortest, nearly.
        scale: factor on the relations.
        min_distance: smallest distance before the logarithm.

    Returns:
        (B, S, S, dim): sines of dx at all waves, of dy, dw, dh, then the cosines in the same order.
    """
    waves = dim // 8
    powers = torch.arange(waves, device=boxes.device, dtype=boxes.dtype) / waves
    frequency = 1.0 / wave_length**powers
    relations = scale * box_relations(boxes, min_distance=min_distance)
    angles = (relations.unsqueeze(-1) * frequency).flatten(-2)  # (B, S, S, 4, waves) -> (B, S, S, dim / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def box_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    geometry: Tensor,
    mask: Tensor | None = None,
    dropout: nn.Dropout | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention whose logits have the logarithm of a geometric weight added.

    Args:
        query: (B, H, S, W).
        key: (B, H, S, W).
        value: (B, H, S, W).
        geometry: (B, H, S, S) weights of the box relations, not negative.
        mask: broadcastable to (B, H, S, S), 0 on keys that are padding.
        dropout: applied to the attention weights.

    Returns:
        Context (B, H, S, W) and attention weights (B, H, S, S).
    """
    logits = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if mask is not None:
        logits = logits.masked_fill(mask == 0, FORBIDDEN)
    weights = (geometry.clamp(min=1e-6).log() + logits).softmax(dim=-1)
    if dropout is not None:
        weights = dropout(weights)
    return weights @ value, weights


class LayerNorm(nn.Module):
    """a_2 * (x - mean) / (std + eps) + b_2 over the last dimension, with the unbiased standard deviation.

    Unlike `torch.nn.LayerNorm`, which divides by sqrt(biased variance + eps).
    """

    def __init__(self, features: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.a_2 = nn.Parameter(torch.ones(features))
        self.b_2 = nn.Parameter(torch.zeros(features))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        if not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return self._in_one_pass(x)
        mean = x.mean(dim=-1, keepdim=True)
        return self.a_2 * (x - mean) / (x.std(dim=-1, keepdim=True) + self.eps) + self.b_2

    def _in_one_pass(self, x: Tensor) -> Tensor:
        """The same but for rounding by torch's norm n = (x - mean) / s, whose s divides by D features.

        With c = sqrt(D / (D - 1)), the unbiased deviation is c s, and (x - mean) / (c s + eps) is
        n / (c + eps / s).
        """
        width = x.shape[-1]
        normed, _, inverse = torch.native_layer_norm(x, [width], self.a_2, None, TINY)
        return torch.addcmul(self.b_2, normed, 1 / (math.sqrt(width / (width - 1)) + self.eps * inverse))


def positional_table(rows: int, width: int) -> Tensor:
    """Sine on even and cosine on odd columns, wave lengths from 2 pi to 20000 pi (Vaswani et al. 2017, 3.5).

    Returns:
        (rows, width) float32.
    """
    position = torch.arange(rows).unsqueeze(1)
    angles = position * torch.exp(
        torch.arange(0, width, 2) * -(math.log(10000.0) / width)
    )  # (rows, ceil(D / 2))
    table = torch.zeros(rows, width)
    table[:, 0::2] = angles.sin()
    table[:, 1::2] = angles.cos()[:, : width // 2]
    return table
