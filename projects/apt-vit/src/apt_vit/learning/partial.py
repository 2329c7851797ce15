"""Blocks where less than all of a training step's block is asked for.

# b sequences, n tokens with the classification token first, D width, H heads
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from apt_vit.model import Block
from apt_vit.tokens.packed import Rows


def without(x: Tensor, tokens: Tensor) -> Tensor:
    """Sequences (b, n, D) without one token (b,) of each: (b, n - 1, D)."""
    places = torch.arange(x.shape[1] - 1, device=x.device).expand(len(x), -1)  # (b, n - 1)
    places = places + (places >= tokens[:, None])
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))


@torch.no_grad()
def ahead(block: Block, x: Tensor) -> Tensor:
    """Tokens (b, n, D) behind a block without dropout, for rewards; the input is left as it was."""
    attn, ffn = block.attn, block.ffn
    maps = (attn.query, attn.key, attn.value)
    weight = torch.cat([layer.weight for layer in maps])  # (3 D, D): one product in place of three
    bias = torch.cat([layer.bias for layer in maps])
    h = F.linear(block.attention_norm(x), weight, bias)
    query, key, value = (attn.split(part) for part in h.chunk(3, dim=-1))
    context = F.scaled_dot_product_attention(query, key, value)
    x = x + attn.out(context.transpose(1, 2).flatten(2))
    return x.add_(ffn.fc2(F.gelu(ffn.fc1(block.ffn_norm(x)))))


def through(block: Block, rows: Rows, x: Tensor) -> Tensor:
    """Rows (R, D) of a batch behind a block, in the block's mode; every picture sees its own tokens alone."""
    if not rows.lengths:
        mask = None if rows.valid is None else rows.valid[:, None, None]  # (b, 1, 1, n)
        return block(x.unflatten(0, (rows.pictures, -1)), mask).flatten(0, 1)
    attn = block.attn
    h = block.attention_norm(x)
    context = rows.attend(attn.query(h), attn.key(h), attn.value(h), attn.heads)
    x = x + F.dropout(attn.out(context), attn.dropout, block.training)
    return x + block.ffn(block.ffn_norm(x))


def cls_through(block: Block, x: Tensor, real: Tensor | None = None) -> Tensor:
    """The classification token behind the last block, at a small part of the block's cost.

    For a single query neither keys nor values need be made: the query goes through the map of keys instead,
    and the map of values comes behind the sum over tokens. The keys' bias adds the same to all scores, which
    changes nothing but that it has a gradient (of 0), as in a whole block.

    Args:
        block: the last one.
        x: tokens (b, n, D).
        real: (b, n) bool, tokens that are no padding; None: all.

    Returns:
        (b, 1, D).
    """
    attn = block.attn
    h = block.attention_norm(x)
    width, heads = x.shape[-1], attn.heads
    size = width // heads
    query = attn.query(h[:, 0]).view(len(x), heads, size).transpose(0, 1)  # (H, b, D/H)
    along = query @ attn.key.weight.view(heads, size, width)  # (H, b, D)
    alike = (query * attn.key.bias.view(heads, 1, size)).sum(-1).t()[..., None]  # (b, H, 1)
    scores = (along.transpose(0, 1) @ h.transpose(1, 2) + alike) / size**0.5  # (b, H, n)
    if real is not None:
        scores = scores.masked_fill(~real[:, None], -torch.inf)
    seen = F.dropout(scores.softmax(-1), attn.dropout, block.training)
    mixed = (seen @ h).transpose(0, 1)  # (H, b, D)
    context = mixed @ attn.value.weight.view(heads, size, width).transpose(1, 2)  # (H, b, D/H)
    bias = attn.value.bias.view(heads, 1, size) * seen.sum(-1).t()[..., None]  # dropout may change the sum
    x = x[:, :1] + attn.finish((context + bias).transpose(0, 1)[:, :, None])
    return x + block.ffn(block.ffn_norm(x))
